"""What is closed for good never runs again, however often the broker delivers it (I9)."""

from __future__ import annotations

import pytest

from tests.acceptance.watching import messages_left
from tests.celery.copies import publish, publish_copy, refused
from tests.fleet import Fleet, Worker, wait_for


@pytest.fixture(scope="module")
def worker(fleet: Fleet) -> Worker:
    return fleet.worker("only")


def closed(fleet: Fleet, task_id: str, *states: str) -> None:
    wait_for(f"closed as {states}", lambda: [s for _, s in fleet.attempts(task_id)] == list(states))


def all_acknowledged(fleet: Fleet) -> None:
    wait_for("nothing left in the broker", lambda: messages_left(fleet) == (0, 0))


@pytest.mark.parametrize(
    ("task", "states"),
    [("late", ("succeeded",)), ("early", ("succeeded",)), ("boom", ("failed",)), ("ignored", ("succeeded",))],
)
def test_a_finished_message_that_is_delivered_again_is_refused(
    fleet: Fleet, worker: Worker, task: str, states: tuple[str, ...]
) -> None:
    message = publish(fleet, task, task, 0)
    closed(fleet, message.id, *states)
    for _ in range(3):
        publish_copy(fleet, message)
    assert set(refused(fleet, message.id, 3)) == {f"finished: {states[-1]}"}
    assert len(fleet.starts(message.id)) == 1
    all_acknowledged(fleet)
    assert fleet.errors() == []


def test_a_retried_message_that_is_delivered_again_is_refused_and_its_retry_ran(
    fleet: Fleet, worker: Worker
) -> None:
    message = publish(fleet, "retry_once", "retried")
    closed(fleet, message.id, "retried", "succeeded")
    publish_copy(fleet, message)
    assert refused(fleet, message.id) == ["finished: retried"]
    assert len(fleet.starts(message.id)) == 2
    all_acknowledged(fleet)


def test_an_expired_or_revoked_message_that_is_delivered_again_does_not_run(
    fleet: Fleet, worker: Worker
) -> None:
    expired = publish(fleet, "late", "expired", 0, expires=-1)
    closed(fleet, expired.id, "expired")
    revoked = publish(fleet, "late", "revoked", 0, countdown=2)
    wait_for("claimed", lambda: fleet.attempts(revoked.id) == [(1, "claimed")])
    fleet.app.control.revoke(revoked.id, reply=True)
    closed(fleet, revoked.id, "revoked")
    for message in (expired, revoked):
        publish_copy(fleet, message)
    all_acknowledged(fleet)
    wait_for("nothing open", lambda: fleet.open_attempts() == 0)
    assert fleet.starts(expired.id) == fleet.starts(revoked.id) == []
    assert fleet.errors() == []


def test_a_message_that_its_task_rejected_or_requeued_runs_again_as_its_owner_means_it(
    fleet: Fleet, worker: Worker
) -> None:
    message = publish(fleet, "reject_once", "again")
    closed(fleet, message.id, "rejected", "succeeded")
    assert len(fleet.starts(message.id)) == 2
    dropped = publish(fleet, "reject_always", "dropped")
    closed(fleet, dropped.id, "rejected")
    publish_copy(fleet, dropped)
    closed(fleet, dropped.id, "rejected", "rejected")
    all_acknowledged(fleet)


def test_a_task_id_that_people_publish_twice_on_purpose_runs_twice(fleet: Fleet, worker: Worker) -> None:
    """Without Crisper's header nothing says that the second is a copy: only a redelivery is one."""
    message = publish(fleet, "late", "twice", 0)
    closed(fleet, message.id, "succeeded")
    for times in (2, 3):
        publish_copy(fleet, message, crisper_message_id=None)
        wait_for("it runs", lambda times=times: len(fleet.ends(message.id)) == times)
    closed(fleet, message.id, *["succeeded"] * 3)
    all_acknowledged(fleet)
