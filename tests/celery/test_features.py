"""Celery's own features leave the right states on record, and nothing open or unacknowledged."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import celery
import pytest

from tests.acceptance.asking import in_broker
from tests.acceptance.watching import nothing_left_in_the_broker
from tests.fleet import Fleet, Worker, wait_for

NAME = "tests.celery.features_app."
IS_57 = tuple(map(int, celery.__version__.split(".")[:2])) >= (5, 7)


class Case(NamedTuple):
    """A task with its arguments, the states of its attempts, and what the result backend says in the end."""

    task: str
    args: tuple[Any, ...]
    states: list[str]
    result: str | None  # None: Celery 5.5 and 5.7 differ


ENDINGS = [
    Case("early_nothing", (), ["succeeded"], "SUCCESS"),
    Case("late_nothing", (), ["succeeded"], "SUCCESS"),
    Case("early_fails", (), ["failed"], "FAILURE"),
    Case("late_fails", (), ["failed"], "FAILURE"),
    Case("late_fails_unacked", (), ["rejected"], "FAILURE"),
    Case("early_fails_twice", (), ["retried", "retried", "succeeded"], "SUCCESS"),
    Case("late_fails_twice", (), ["retried", "retried", "succeeded"], "SUCCESS"),
    Case("early_fails_always", (), ["retried", "failed"], "FAILURE"),
    Case("late_fails_always", (), ["retried", "failed"], "FAILURE"),
    Case("early_softly", (True,), ["succeeded"], "SUCCESS"),
    Case("late_softly", (True,), ["succeeded"], "SUCCESS"),
    Case("early_softly", (False,), ["failed"], "FAILURE"),
    Case("late_softly", (False,), ["failed"], "FAILURE"),
    Case("early_overruns", (), ["failed"], "FAILURE"),
    Case("late_overruns", (), ["failed"], "FAILURE"),
    Case("early_rejects", (False,), ["rejected"], None),
    Case("early_rejects", (True,), ["rejected"], "PENDING"),
    Case("late_rejects", (False,), ["rejected"], None),
    Case("late_rejects", (True,), ["rejected", "succeeded"], "SUCCESS"),
    Case("early_ignores", (), ["succeeded"], "PENDING"),
    Case("late_ignores", (), ["succeeded"], "PENDING"),
    Case("early_replaces", (), ["succeeded", "succeeded"], "SUCCESS"),
    Case("late_replaces", (), ["succeeded", "succeeded"], "SUCCESS"),
    Case("unheard", (), ["succeeded"], "PENDING"),
    Case("late_dies", (1,), ["lost", "succeeded"], "SUCCESS"),
    Case("early_dies", (1,), ["lost"], "FAILURE"),
]
if IS_57:
    ENDINGS += [
        Case("late_fails_unacked_57", (), ["rejected"], "FAILURE"),
        Case("late_overruns_unacked", (), ["rejected", "succeeded"], "SUCCESS"),
        Case("late_overruns_unacked_57", (), ["rejected", "succeeded"], "SUCCESS"),
        Case("late_dies_and_retries", (1,), ["retried", "succeeded"], "SUCCESS"),
        Case("early_dies_and_retries", (1,), ["retried", "succeeded"], "SUCCESS"),
        Case("late_dies_and_retries", (2,), ["retried", "failed"], "FAILURE"),
        Case("early_dies_and_retries", (2,), ["retried", "failed"], "FAILURE"),
        Case("dies_when_stored", (), ["succeeded"], "SUCCESS"),
    ]


@pytest.fixture(scope="module")
def worker(fleet: Fleet) -> Iterator[Worker]:
    """After the last law it is stopped, and nothing is left open or in the broker."""
    one = fleet.worker("only", "-c", "6", "--include", "tests.celery.features_app")
    yield one
    assert one.stop() == 0
    nothing_left_in_the_broker(fleet)
    assert fleet.open_attempts() == 0
    assert fleet.errors() == []


@pytest.fixture(scope="module")
def sent(fleet: Fleet, worker: Worker) -> list[Any]:
    """All of them at once: the worker waits for their time limits beside each other."""
    return [send(fleet, case.task, *case.args) for case in ENDINGS]


def send(fleet: Fleet, task: str, *args: Any, **options: Any) -> Any:
    return fleet.app.send_task(NAME + task, args, **options)


def states(fleet: Fleet, task_id: str) -> list[str]:
    return [state for _, state in fleet.attempts(task_id)]


def leaves(fleet: Fleet, task_id: str, *expected: str) -> None:
    try:
        wait_for("its states", lambda: states(fleet, task_id) == [*expected])
    except AssertionError:
        raise AssertionError(f"{states(fleet, task_id)} instead of {[*expected]}") from None


@pytest.mark.parametrize("case", ENDINGS, ids=lambda case: "-".join(map(str, (case.task, *case.args))))
def test_each_way_to_end_leaves_its_states(fleet: Fleet, sent: list[Any], case: Case) -> None:
    result = sent[ENDINGS.index(case)]
    leaves(fleet, result.id, *case.states)
    if case.result is not None:
        wait_for(f"{case.result} is stored", lambda: result.state == case.result)
    assert len(fleet.starts(result.id)) == len(case.states)


def test_every_retry_is_a_message_of_its_own(fleet: Fleet, sent: list[Any]) -> None:
    for name in ("early_fails_twice", "late_fails_twice"):
        [one] = [result for result, case in zip(sent, ENDINGS, strict=True) if case.task == name]
        leaves(fleet, one.id, "retried", "retried", "succeeded")
        sql = "SELECT DISTINCT message_id FROM crisper_attempt WHERE task_id = ?"
        assert len(fleet.rows(sql, one.id)) == 3


def test_a_task_waits_for_its_time_and_does_not_run_once_it_has_expired(fleet: Fleet, worker: Worker) -> None:
    asked = time.time()
    punctual = [send(fleet, f"{way}_nothing", countdown=1.5) for way in ("early", "late")]
    expired = [send(fleet, f"{way}_nothing", countdown=1.5, expires=1) for way in ("early", "late")]
    for one in (*punctual, *expired):
        wait_for("claimed", lambda one=one: states(fleet, one.id) == ["claimed"])
    for one in punctual:
        leaves(fleet, one.id, "succeeded")
        [start] = fleet.starts(one.id)
        assert start.at >= asked + 1.5
    for one in expired:
        leaves(fleet, one.id, "expired")
        assert (fleet.starts(one.id), one.state) == ([], "REVOKED")


def test_what_a_person_revokes_by_its_id_or_by_its_stamp_is_revoked_whether_it_runs_or_waits(
    fleet: Fleet, worker: Worker
) -> None:
    control = fleet.app.control
    running = [fleet.send(way, 1, "never") for way in ("early", "late")]
    for one in running:
        wait_for("it runs", lambda one=one: states(fleet, one.id) == ["running"])
    by_stamp = fleet.app.signature(f"{NAME}late_nothing")
    by_stamp.stamp(stamped_headers=["customer"], customer="acme")
    waiting, stamped = send(fleet, "late_nothing", countdown=2), by_stamp.apply_async(countdown=2)
    for one in (waiting, stamped):
        wait_for("claimed", lambda one=one: states(fleet, one.id) == ["claimed"])
    assert control.revoke_by_stamped_headers({"customer": "acme"}, reply=True, timeout=10, limit=1)
    assert control.revoke(waiting.id, reply=True, timeout=10, limit=1)
    for one in running:
        assert control.revoke(one.id, terminate=True, reply=True, timeout=10, limit=1)
    for one in (*running, waiting, stamped):
        leaves(fleet, one.id, "revoked")
        wait_for("stored", lambda one=one: one.state == "REVOKED")
    assert [len(fleet.starts(one.id)) for one in (waiting, stamped)] == [0, 0]


def test_a_rate_limit_holds_tasks_up_and_loses_none(fleet: Fleet, worker: Worker) -> None:
    limited = [send(fleet, "slowly") for _ in range(5)]
    for one in limited:
        leaves(fleet, one.id, "succeeded")
    at = sorted(start.at for one in limited for start in fleet.starts(one.id))
    assert len(at) == 5
    assert at[-1] - at[0] > 0.4, "five at five a second"


def test_a_pool_that_breathes_and_renews_itself_for_its_memory_runs_every_task_once(
    fleet: Fleet,
) -> None:
    """Then a warm shutdown: what waits for its time or its rate goes back to the broker."""
    worker = fleet.worker(
        "breathing", "-c", "1", "-Q", "memory", "--autoscale", "3,1", "--max-memory-per-child", "1",
        "--include", "tests.celery.features_app",
    )  # fmt: skip
    first = [send(fleet, f"{way}_nothing", queue="memory") for way in ("early", "late") for _ in range(3)]
    for one in first:
        leaves(fleet, one.id, "succeeded")
    pids = [start.pid for one in first for start in fleet.starts(one.id)]
    assert len(pids) == len(set(pids)) == 6, "each child had more than a kilobyte, and ran one task"

    fleet.app.control.rate_limit(f"{NAME}slowly", "1/m", reply=True, destination=["breathing@test"])
    waiting = [send(fleet, "early_nothing", queue="memory", countdown=600)]
    waiting += [send(fleet, "slowly", queue="memory") for _ in range(3)]
    for one in waiting:
        wait_for("claimed or done", lambda one=one: states(fleet, one.id))
    wait_for("one has its turn", lambda: [states(fleet, one.id) for one in waiting].count(["succeeded"]) == 1)
    assert worker.stop() == 0
    assert sorted(states(fleet, one.id) for one in waiting) == [["released"]] * 3 + [["succeeded"]]
    assert in_broker(fleet, "memory") == 3
    with fleet.app.connection_for_write() as connection:
        assert connection.default_channel.queue_purge("memory") == 3
