"""Why the worker's loop stands still: that it does is no proof that something is wrong.

Celery waits for a broker that is away in the loop's own thread, runs a solo task in it, and joins
its pool in it when it shuts down.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from crisper.celery.link import Link, monotonic_ms
from crisper.celery.stacks import of_thread
from crisper.core.stack import bounded
from crisper.recorder import wire

TASK, BROKER, SHUTDOWN, UNKNOWN = "task", "broker", "shutdown", ""

#: The loop ticks once a second. Sooner where a worker is called wedged sooner.
STANDS_MS = 3000

#: Of the packages that speak to a broker, kombu has parts that do not.
_SPEAKS = ("amqp", "redis", "kombu.transport", "kombu.connection", "kombu.utils.functional")
_RUN = 1  # celery.bootsteps.RUN


def say_if_it_stands(worker: Any, link: Link, ticked_at: int, wedged_after: float) -> None:
    """Called once a second by the keeper's native thread: such a loop cannot say so itself. Where there is
    no reason, its stack says where it stands."""
    now = monotonic_ms()
    if now - ticked_at > min(STANDS_MS, wedged_after * 500):
        why = why_it_stands(worker)
        stack = "" if why else bounded(of_thread(threading.main_thread().ident or 0))
        link.send((wire.STANDS, now, why, stack))
        link.flush()


def why_it_stands(worker: Any) -> str:
    """By what the loop's thread is doing at this moment. From any native thread."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    return why(list(_modules(frame)), closing=_is_closing(worker))


def why(modules: list[str], *, closing: bool) -> str:
    """From the modules of the thread's frames, the innermost first."""
    if "celery.app.trace" in modules:
        return TASK
    if closing:
        return SHUTDOWN
    own = (name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names)
    return BROKER if _speaks_to_a_broker(next(own, "")) else UNKNOWN


def is_consuming(worker: Any) -> bool:
    consumer = worker.consumer
    connected = getattr(consumer, "connection", None) is not None
    return connected and getattr(consumer, "task_consumer", None) is not None and not _is_closing(worker)


def _is_closing(worker: Any) -> bool:
    blueprint = worker.blueprint
    return blueprint is not None and (blueprint.state or _RUN) != _RUN


def _speaks_to_a_broker(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in _SPEAKS)


def _modules(frame: FrameType | None) -> Iterator[str]:
    while frame is not None:
        yield str(frame.f_globals.get("__name__", ""))
        frame = frame.f_back
