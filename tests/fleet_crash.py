"""For a worker started with `--include tests.fleet_crash`: it dies exactly where a test wants it to.

The test leaves a file `crash-at-STEP` in the fleet's folder, with `alone` or `both` in it. The
first worker that comes to that step takes the file away, kills its recorder if it is to die
along, and then itself. Only steps in the worker's parent are known here.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery.app.amqp import AMQP
from celery.backends.redis import RedisBackend

from crisper.celery import request
from crisper.celery.brokers.base import Broker
from crisper.celery.brokers.redis import RedisBroker
from crisper.celery.courier import WorkerCourier
from crisper.celery.deliveries import Deliveries
from crisper.celery.desk import WireDesk
from crisper.celery.request import RecordedRequest

FOLDER = Path(os.environ.get("FLEET_FOLDER", "."))


def die_here(step: str) -> None:
    order = FOLDER / f"crash-at-{step}"
    try:
        os.rename(order, FOLDER / "crashed")  # noqa: PTH104  (atomic: one worker only)
    except FileNotFoundError:
        return
    deliveries = request._deliveries
    assert deliveries is not None
    deliveries.link.flush()  # what the loop would have sent at the end of this very turn
    if (FOLDER / "crashed").read_text() == "both":
        os.kill(deliveries.link.recorder_pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_the_child(step: str) -> None:
    """A pool process takes its worker, and with it itself, away, once the test has left that file."""
    try:
        os.rename(FOLDER / f"crash-at-{step}", FOLDER / "crashed")  # noqa: PTH104
    except FileNotFoundError:
        return
    os.kill(os.getppid(), signal.SIGKILL)
    signal.pause()


def _around(
    owner: type, name: str, *, before: str = "", after: str = "", die: Callable[[str], None] = die_here
) -> None:
    original: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before:
            die(before)
        result = original(*args, **kwargs)
        if after:
            die(after)
        return result

    setattr(owner, name, wrapped)


_around(Deliveries, "claim", before="received", after="claim_sent")
_around(Deliveries, "_granted", before="claimed")
_around(Deliveries, "_to_pool", before="granted", after="dispatched")
_around(Deliveries, "accepted", before="begun", after="accepted")
_around(RecordedRequest, "on_success", before="body_done")
_around(Deliveries, "finish", after="outcome_sent")
_around(RecordedRequest, "_crisper_acknowledge", before="outcome_written", after="acknowledged")
_around(WorkerCourier, "receive", before="recovery_taken")
_around(WireDesk, "decide", after="recovery_committed")
_around(Broker, "resend", after="one_of_a_batch_published")
_around(Broker, "resend_all", after="recovery_published")
_around(RedisBroker, "hand_back_all", after="recovery_published")
_around(WireDesk, "complete", after="recovery_completed")
_around(RedisBackend, "on_chord_part_return", before="result_stored", die=die_in_the_child)
if hasattr(AMQP, "_retry_publish"):  # Celery 5.7: the body of a chord is claimed before it is sent
    _around(AMQP, "_retry_publish", before="chord_claimed", die=die_in_the_child)
