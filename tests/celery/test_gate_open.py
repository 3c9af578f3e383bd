"""A delivery of a message whose attempt is still open: parked, refused as a copy, or adopted."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.acceptance.watching import events, nothing_left_in_the_broker
from tests.celery.copies import Published, publish, publish_copy, refusals, refused
from tests.fleet import Fleet, wait_for

QUICK = {"CRISPER_LEASE": "3", "CRISPER_HEARTBEAT_INTERVAL": "0.5", "CRISPER_SWEEP_INTERVAL": "0.2"}


@pytest.fixture
def gate(fleet: Fleet) -> Iterator[Fleet]:
    """The module's fleet; after each test its workers are gone, and nothing of it is left anywhere."""
    (fleet.folder / "open").unlink(missing_ok=True)
    yield fleet
    (fleet.folder / "open").touch()
    workers, fleet.workers = fleet.workers, []
    for worker in workers:
        assert worker.stop() == 0
    nothing_left_in_the_broker(fleet)
    assert fleet.open_attempts() == 0
    assert not [line for worker in workers for line in worker.text().splitlines() if "internal error" in line]


def runs_until_told(fleet: Fleet) -> Published:
    message = publish(fleet, "late", "one", "open")
    wait_for("it runs", lambda: fleet.attempts(message.id) == [(1, "running")])
    return message


def finishes_once(fleet: Fleet, message: Published) -> None:
    (fleet.folder / "open").touch()
    wait_for("it succeeds", lambda: fleet.attempts(message.id)[-1][1] == "succeeded")
    assert len(fleet.starts(message.id)) == len(fleet.ends(message.id)) == 1


def all_slots_work(fleet: Fleet, queue: str = "celery") -> None:
    """What was parked or refused holds no slot and no prefetch back."""
    more = [fleet.send("late", key, 0, queue=queue).id for key in range(8)]
    wait_for("others finish", lambda: all(fleet.attempts(id) == [(1, "succeeded")] for id in more))


def test_a_copy_of_what_runs_here_is_parked_without_a_slot_and_refused_at_the_end(gate: Fleet) -> None:
    gate.worker("holder", FLEET_PREFETCH="1")
    message = runs_until_told(gate)
    for _ in range(5):
        publish_copy(gate, message)
    all_slots_work(gate)
    assert len(gate.starts(message.id)) == 1
    finishes_once(gate, message)
    assert set(refused(gate, message.id, 5)) == {"finished: succeeded"}


def test_of_a_copy_and_the_redelivery_of_what_was_lost_here_only_one_runs(gate: Fleet) -> None:
    gate.worker("holder", "-c", "1", **QUICK)
    message = runs_until_told(gate)
    publish_copy(gate, message)
    behind = gate.send("late", "behind it", 0)
    wait_for("the copy is here too", lambda: gate.attempts(behind.id) == [(1, "claimed")])
    [(pid,)] = gate.rows("SELECT pid FROM crisper_attempt WHERE task_id = ?", message.id)
    os.kill(pid, signal.SIGKILL)
    wait_for("it runs again", lambda: gate.attempts(message.id) == [(1, "lost"), (2, "running")])
    (gate.folder / "open").touch()
    wait_for("it succeeds", lambda: gate.attempts(message.id) == [(1, "lost"), (2, "succeeded")])
    assert refused(gate, message.id) == ["finished: succeeded"]
    assert len(gate.starts(message.id)) == 2


def test_a_copy_of_what_only_waits_here_leaves_the_first_delivery_its_turn(gate: Fleet) -> None:
    gate.worker("holder", "-c", "1")
    running = runs_until_told(gate)
    waiting = publish(gate, "late", "waits", 0)
    wait_for("claimed", lambda: gate.attempts(waiting.id) == [(1, "claimed")])
    publish_copy(gate, waiting)
    publish_copy(gate, waiting)
    (gate.folder / "open").touch()
    wait_for("both succeed", lambda: gate.attempts(waiting.id) == [(1, "succeeded")])
    assert set(refused(gate, waiting.id, 2)) == {"finished: succeeded"}
    assert len(gate.starts(waiting.id)) == 1
    finishes_once(gate, running)


def test_a_copy_of_what_runs_elsewhere_under_a_valid_lease_is_refused_and_acknowledged(gate: Fleet) -> None:
    gate.worker("holder", **QUICK)
    message = runs_until_told(gate)
    gate.worker("other", "-Q", "other", **QUICK)
    publish_copy(gate, message, queue="other")
    assert refused(gate, message.id) == ["copy: runs elsewhere under a valid lease"]
    finishes_once(gate, message)


def test_a_copy_of_what_runs_elsewhere_and_is_not_kept_is_parked_until_it_is_over(gate: Fleet) -> None:
    gate.worker("holder", **QUICK, CRISPER_MAX_MESSAGE_BYTES="0")
    message = runs_until_told(gate)
    gate.worker("other", "-Q", "other", **QUICK)
    publish_copy(gate, message, queue="other")
    all_slots_work(gate, queue="other")
    assert refusals(gate, message.id) == []
    finishes_once(gate, message)
    assert refused(gate, message.id) == ["finished: succeeded"]


def test_a_copy_of_what_runs_on_a_worker_that_stands_still_is_parked_until_that_is_judged(
    gate: Fleet,
) -> None:
    unhurried = {**QUICK, "CRISPER_LEASE": "8"}
    holder = gate.worker("holder", "-c", "1", FLEET_PREFETCH="1", **unhurried)
    message = runs_until_told(gate)
    holder.send_signal(signal.SIGSTOP)
    gate.worker("other", "-Q", "other,celery", FLEET_PREFETCH="1", **unhurried)
    for _ in range(5):
        publish_copy(gate, message, queue="other")
    all_slots_work(gate, queue="other")
    assert gate.attempts(message.id) == [(1, "running")], "the others ran while it was parked"
    wait_for("judged and granted", lambda: gate.attempts(message.id) == [(1, "lost"), (2, "running")])
    holder.send_signal(signal.SIGCONT)
    wait_for("fenced", lambda: gate.incarnations()["holder"][-2:] == ["lost", "alive"])
    (gate.folder / "open").touch()
    wait_for("it succeeds", lambda: gate.attempts(message.id)[-1] == (2, "succeeded"))
    assert len(gate.starts(message.id)) == 2


def test_what_the_broker_redelivers_after_a_lost_connection_is_adopted_or_granted_anew(
    gate: Fleet, cut_connections: Callable[[], None]
) -> None:
    gate.worker("holder", "-c", "1")
    message = runs_until_told(gate)
    prefetched = [publish(gate, "late", key, 0).id for key in range(2)]
    wait_for("all claimed", lambda: gate.open_attempts() == 3)
    cut_connections()
    wait_for("adopted", lambda: [id for id, _ in events(gate, "adopted")] == [message.id])
    finishes_once(gate, message)
    for id in prefetched:
        wait_for("it succeeds", lambda id=id: gate.attempts(id)[-1][1] == "succeeded")
        assert len(gate.starts(id)) == 1
