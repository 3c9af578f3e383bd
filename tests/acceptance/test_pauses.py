"""A worker that stands still is not dead at once, and may not harm its successor when it wakes."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import broker_urls
from tests.acceptance.watching import (
    events,
    how_lost,
    is_running,
    losses,
    messages_left,
    nothing_left_in_the_broker,
)
from tests.fleet import Fleet, wait_for

LEASE = 3.0
QUICK = {"lease": LEASE, "heartbeat_interval": 0.5, "sweep_interval": 0.2}


@pytest.fixture
def quick(broker_name: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    """A fleet with a short lease, and little patience with a broker that does not redeliver."""
    fleet = Fleet(tmp_path, **broker_urls(broker_name, request), **QUICK, redelivery_grace=1)
    yield fleet
    fleet.close()


@pytest.mark.parametrize("broker_name", ["redis"], indirect=True)
def test_a_pause_of_half_a_lease_harms_nobody(quick: Fleet) -> None:
    paused = quick.worker("paused")
    quick.worker("other")
    sent = [quick.send("late", key, 2.5).id for key in range(2)]
    sent += [quick.send("early", key, 2.5).id for key in range(2)]
    wait_for("all on record", lambda: quick.open_attempts() == 4)
    paused.send_signal(signal.SIGSTOP)
    time.sleep(LEASE / 2)
    paused.send_signal(signal.SIGCONT)
    wait_for("all finished", lambda: [quick.attempts(id) for id in sent] == [[(1, "succeeded")]] * 4)
    assert len(quick.ends()) == len(quick.starts()) == 4
    assert losses(quick) == 0
    assert events(quick, "late_finish") == []
    nothing_left_in_the_broker(quick)
    assert quick.errors() == []


@pytest.mark.timeout(120)
def test_a_worker_paused_for_two_leases_is_fenced_and_goes_on_as_a_new_incarnation(quick: Fleet) -> None:
    """Three bodies begin on it: one ends before the loss is decided, one after it, one never."""
    # RabbitMQ goes on delivering to a connection that stands still, up to its prefetch: leave it no room.
    paused = quick.worker("paused", "-c", "3", FLEET_PREFETCH="1")
    before, after, never = (quick.send("late", key, key).id for key in ("before", "after", "never"))
    sent = (before, after, never)
    wait_for("running", lambda: all(quick.attempts(id) == [(1, "running")] for id in sent))
    stopped_child = quick.starts(never)[0].pid
    other = quick.worker("other", "-c", "3")

    paused.send_signal(signal.SIGSTOP)
    stopped_at = time.monotonic()
    (quick.folder / "before").touch()
    wait_for("ended under the paused parent", lambda: quick.ends(before))
    wait_for("declared", lambda: losses(quick) == 1, LEASE + 3.0)
    assert how_lost(quick, "paused") == ["silence"]
    wait_for("begun elsewhere", lambda: len(quick.starts(after)) == len(quick.starts(never)) == 2)
    (quick.folder / "after").touch()
    wait_for("ended here and there", lambda: len(quick.ends(after)) == 2)
    time.sleep(max(0.0, stopped_at + 2 * LEASE - time.monotonic()))
    assert is_running(stopped_child)

    paused.send_signal(signal.SIGCONT)
    wait_for("its late finishes", lambda: {before, after} <= {id for id, _ in events(quick, "late_finish")})
    wait_for("its child stopped", lambda: not is_running(stopped_child))
    wait_for("a new incarnation", lambda: quick.incarnations()["paused"] == ["lost", "alive"])
    if quick.environment["FLEET_BROKER"].startswith("redis"):
        assert messages_left(quick)[1] >= 1, "the new holder's message was acknowledged by the old one"
    (quick.folder / "never").touch()
    wait_for("run to the end elsewhere", lambda: quick.ends(never))
    wait_for("no attempt left open", lambda: quick.open_attempts() == 0)
    assert quick.attempts(never) == quick.attempts(after) == [(1, "lost"), (2, "succeeded")]
    assert quick.attempts(before) == [(1, "lost")]
    assert [verdict for _, _, verdict in quick.recoveries(before)] == ["settled"]
    assert len(quick.ends(before)) == len(quick.ends(never)) == 1

    assert other.stop() == 0
    more = [quick.send("late", key, 0).id for key in range(20)]
    wait_for("new tasks", lambda: all(quick.attempts(id) == [(1, "succeeded")] for id in more))
    if quick.environment["FLEET_BROKER"].startswith("amqp"):
        # What ran until it was stopped goes back once its process is missed, which takes Celery up to 5 s.
        wait_for("refused", lambda: never in {id for id, _ in events(quick, "refused")})
    # Copies that came back by the fence are parked until their holder ends: let them be refused.
    beats = pulse(quick)[0]
    wait_for("nothing held any more", lambda: pulse(quick)[0] > beats + 4 and pulse(quick)[1] == 0)
    assert paused.stop() == 0
    nothing_left_in_the_broker(quick)
    assert quick.incarnations() == {"paused": ["lost", "gone"], "other": ["gone"]}
    assert quick.errors() == []


def pulse(fleet: Fleet) -> tuple[int, int]:
    """Of the one worker that lives: its heartbeats, and the deliveries it held at the last."""
    [(counter, detail)] = fleet.rows("SELECT counter, pulse FROM crisper_incarnation WHERE state = 'alive'")
    return int(counter), int(json.loads(detail).get("held", 1))
