"""What waits for a person, or was failed by policy, does not run because the broker delivers it again."""

from __future__ import annotations

import os
import signal

import pytest

from tests.acceptance.asking import state_of
from tests.acceptance.watching import messages_left
from tests.celery.copies import publish, publish_copy, refused
from tests.fleet import Fleet, wait_for


@pytest.mark.parametrize(
    ("task", "state", "reason", "starts"),
    [
        ("late_hold", "held", "held", 1),
        ("late_fail", "failed", "failed by policy", 1),
        ("poison", "quarantined", "quarantined", 2),
    ],
)
def test_a_delivery_of_what_a_person_or_policy_decides_is_refused_and_its_message_kept(
    fleet: Fleet, task: str, state: str, reason: str, starts: int
) -> None:
    if not fleet.workers:
        fleet.worker("only", CRISPER_LOSS_BUDGET="1")
    message = publish(fleet, task, *((task, "open") if starts == 1 else (task,)))
    if starts == 1:  # the other one does it itself
        its_process_is_killed(fleet, message.id)
    wait_for(state, lambda: state_of(fleet, message.id) == state)
    publish_copy(fleet, message)
    assert reason in refused(fleet, message.id)
    wait_for("acknowledged", lambda: messages_left(fleet) == (0, 0))
    kept = "SELECT body IS NOT NULL FROM crisper_attempt WHERE task_id = ? ORDER BY number DESC"
    assert fleet.rows(kept, message.id)[0][0]
    assert len(fleet.starts(message.id)) == starts
    assert fleet.errors() == []


def test_a_delivery_of_what_waits_and_is_not_kept_goes_back_to_the_broker_now_and_then(fleet: Fleet) -> None:
    for worker in fleet.workers:
        worker.stop()
    last = fleet.worker("last", CRISPER_MAX_MESSAGE_BYTES="0")
    message = publish(fleet, "late_hold", "big", "open")
    its_process_is_killed(fleet, message.id)
    wait_for("held", lambda: state_of(fleet, message.id) == "held")
    received = f"late_hold[{message.id}] received"
    wait_for("delivered twice more", lambda: last.text().count(received) == 3, 30)
    assert len(fleet.starts(message.id)) == 1
    assert last.stop() == 0
    assert messages_left(fleet) == (1, 0), "it is nowhere else, so it must not be acknowledged"
    assert last.text().count(received) <= 4, "no hot loop"
    assert fleet.errors() == []


def its_process_is_killed(fleet: Fleet, task_id: str) -> None:
    [line] = wait_for("it runs", lambda: fleet.starts(task_id))
    wait_for("on record", lambda: fleet.attempts(task_id) == [(1, "running")])
    os.kill(line.pid, signal.SIGKILL)
