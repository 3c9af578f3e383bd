"""What a worker holds is not let go of by accident: at a fence, a lost connection, a new recorder, an end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.acceptance.watching import messages_left, nothing_left_in_the_broker
from tests.celery.copies import publish, publish_copy, refusals, refused
from tests.fleet import Fleet, Worker, wait_for


@pytest.fixture
def held(fleet: Fleet) -> Iterator[Fleet]:
    """The module's fleet; after each test its workers are gone, and nothing of it is left anywhere."""
    (fleet.folder / "open").unlink(missing_ok=True)
    (fleet.folder / "ledger").unlink(missing_ok=True)
    yield fleet
    (fleet.folder / "open").touch()
    for worker in fleet.workers:
        if worker.process.poll() is None:
            assert worker.stop() == 0
    nothing_left_in_the_broker(fleet)
    assert fleet.open_attempts() == 0
    assert fleet.errors() == []
    fleet.workers.clear()


def received(worker: Worker, task_id: str) -> int:
    """How often the worker was given a message of the task."""
    return worker.text().count(f"[{task_id}] received")


def declared_lost_before_it_was_answered(fleet: Fleet) -> list[str]:
    """Four tasks that a worker has received and asked for; its fence comes instead of an answer."""
    worker = fleet.worker("fenced")
    recorder = worker.recorder()
    wait_for("it is on record", lambda: fleet.incarnations().get("fenced"))
    os.kill(recorder, signal.SIGSTOP)
    sent = [fleet.send("late", key, 0).id for key in range(4)]
    wait_for("all received", lambda: all(received(worker, id) == 1 for id in sent))

    def declare() -> bool:
        with fleet.store() as store:
            [one] = store.alive()
            return store.declare_lost(one.id, one.counter, by="a test", evidence={"how": "silence"})

    wait_for("declared", declare)
    os.kill(recorder, signal.SIGCONT)
    wait_for("a new incarnation", lambda: fleet.incarnations()["fenced"][-2:] == ["lost", "alive"])
    return sent


def all_run_once(fleet: Fleet, sent: list[str]) -> None:
    wait_for("all succeed", lambda: all(fleet.attempts(id)[-1:] for id in sent))
    wait_for("all succeed", lambda: all(fleet.attempts(id)[-1][1] == "succeeded" for id in sent))
    assert all(len(fleet.starts(id)) == 1 for id in sent)


def test_a_fence_loses_nothing_that_was_received_and_not_on_record(held: Fleet) -> None:
    all_run_once(held, declared_lost_before_it_was_answered(held))


def test_a_fence_loses_nothing_on_a_broker_that_forgets_what_it_delivered(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    try:
        all_run_once(fleet, declared_lost_before_it_was_answered(fleet))
        assert fleet.open_attempts() == 0
    finally:
        fleet.close()


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_a_task_that_runs_past_its_expiry_survives_a_redelivery(
    held: Fleet, cut_connections: Callable[[], None]
) -> None:
    """RabbitMQ gives no message back whose time has passed."""
    worker = held.worker("overtime", "-c", "1")
    expires = datetime.now(UTC) + timedelta(seconds=2)
    sent = held.send("late", 1, "open", expires=expires)
    wait_for("it runs", lambda: held.attempts(sent.id) == [(1, "running")])
    wait_for("past its expiry", lambda: datetime.now(UTC) > expires)
    cut_connections()
    wait_for("given again", lambda: received(worker, sent.id) == 2)
    (held.folder / "open").touch()
    wait_for("heard to end", lambda: held.attempts(sent.id) == [(1, "succeeded")])
    assert sent.state == "SUCCESS"
    nothing_left_in_the_broker(held)
    after = held.send("noop", 1)
    wait_for("the worker goes on", lambda: held.attempts(after.id) == [(1, "succeeded")])
    assert len(held.starts(sent.id)) == 1


def test_what_was_parked_is_answered_whatever_became_of_its_recorder(held: Fleet) -> None:
    held.worker("holder", "-c", "1", CRISPER_MAX_MESSAGE_BYTES="0")
    message = publish(held, "late", "one", "open")
    wait_for("it runs", lambda: held.attempts(message.id) == [(1, "running")])
    other = held.worker("other", "-c", "1", "-Q", "other", FLEET_PREFETCH="1")
    publish_copy(held, message, queue="other")
    passed_by(held)
    first = other.recorder()
    os.kill(first, signal.SIGKILL)
    wait_for("another recorder", lambda: other.recorders() not in ([], [first]))
    passed_by(held)
    assert refusals(held, message.id) == []
    (held.folder / "open").touch()
    assert refused(held, message.id) == ["finished: succeeded"]
    wait_for("acknowledged", lambda: held.attempts(message.id) == [(1, "succeeded")])


def passed_by(fleet: Fleet) -> None:
    """Another task runs on the worker that has one parked."""
    after = fleet.send("noop", 0, queue="other")
    wait_for("another task passes", lambda: fleet.attempts(after.id) == [(1, "succeeded")])


def test_what_ends_during_a_warm_shutdown_is_acknowledged(held: Fleet) -> None:
    worker = held.worker("ending", "-c", "1")
    sent = held.send("late", 1, "open")
    wait_for("it runs", lambda: held.attempts(sent.id) == [(1, "running")])
    worker.send_signal(signal.SIGTERM)
    wait_for("it shuts down", lambda: "Warm shutdown" in worker.text())
    (held.folder / "open").touch()
    assert worker.process.wait(30) == 0
    assert held.attempts(sent.id) == [(1, "succeeded")]
    assert messages_left(held) == (0, 0)
