"""A pool that is flushed, by a shutdown or a lost connection, before it heard of a job that a process has."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import broker_urls
from tests.acceptance.watching import is_running, nothing_left_in_the_broker
from tests.fleet import Fleet, Worker, wait_for

pytestmark = pytest.mark.timeout(60)

ENDS = ["shutdown", "lost"]


@pytest.fixture
def fleet(broker: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path, **broker_urls(broker, request))
    yield made
    made.close()


def deaf(fleet: Fleet, end: str, **environment: str) -> tuple[Worker, int]:
    """A worker that goes deaf with its next job, and its only pool process."""
    worker = fleet.worker("deaf", "-c", "1", "--include", "tests.fleet_deaf", **environment)
    (pid,) = worker.pool()
    (fleet.folder / f"deaf-until-{end}").touch()
    return worker, pid


def go(fleet: Fleet) -> None:
    (fleet.folder / "go").touch()


def ends_well(fleet: Fleet, worker: Worker, end: str) -> None:
    if end == "shutdown":
        assert worker.process.wait(20) == 0
    wait_for("nothing is open", lambda: fleet.open_attempts() == 0)
    nothing_left_in_the_broker(fleet)
    assert fleet.run_twice() == []
    assert fleet.errors() == []


def comes_again(fleet: Fleet, worker: Worker, end: str, sent: str) -> None:
    go(fleet)
    wait_for("it is given back", lambda: fleet.attempts(sent)[0] == (1, "released"))
    if end == "shutdown":
        assert worker.process.wait(20) == 0
        fleet.worker("next")
    wait_for("it runs elsewhere", lambda: fleet.attempts(sent) == [(1, "released"), (2, "succeeded")])
    ends_well(fleet, worker, "lost")


@pytest.mark.parametrize("end", ENDS)
def test_a_body_that_ended_unheard_has_succeeded_and_does_not_run_again(fleet: Fleet, end: str) -> None:
    worker, pid = deaf(fleet, end)
    sent = fleet.send("late", "ends", 0).id
    wait_for("it ended", lambda: [line.task_id for line in fleet.ends()] == [sent])
    go(fleet)
    wait_for("that is on record", lambda: fleet.attempts(sent) == [(1, "succeeded")])
    if end == "lost":
        assert worker.pool() == [pid]
    ends_well(fleet, worker, end)


@pytest.mark.parametrize("end", ENDS)
def test_a_body_that_began_unheard_is_let_finish(fleet: Fleet, end: str) -> None:
    worker, pid = deaf(fleet, end)
    sent = fleet.send("late", "runs", "open").id
    wait_for("it runs", lambda: [line.task_id for line in fleet.starts()] == [sent])
    go(fleet)
    wait_for("it is heard of", lambda: fleet.attempts(sent) == [(1, "running")])
    (fleet.folder / "open").touch()
    wait_for("it succeeds", lambda: fleet.attempts(sent) == [(1, "succeeded")])
    assert [line.pid for line in fleet.starts()] == [pid]
    ends_well(fleet, worker, end)


@pytest.mark.parametrize("end", ENDS)
def test_what_its_process_has_not_read_is_stopped_before_it_begins_and_comes_again(
    fleet: Fleet, end: str
) -> None:
    worker, pid = deaf(fleet, end)
    os.kill(pid, signal.SIGSTOP)
    sent = fleet.send("late", "waits", 0).id
    wait_for("it is granted", lambda: fleet.attempts(sent) == [(1, "claimed")])
    comes_again(fleet, worker, end, sent)
    assert pid not in {line.pid for line in fleet.starts()}


@pytest.mark.parametrize("end", ENDS)
def test_a_process_that_died_before_it_read_its_job_is_heard_out_and_the_job_comes_again(
    fleet: Fleet, end: str
) -> None:
    worker, pid = deaf(fleet, end)
    os.kill(pid, signal.SIGSTOP)
    sent = fleet.send("late", "waits", 0).id
    wait_for("it is written to the process", (fleet.folder / "standing").exists)
    os.kill(pid, signal.SIGKILL)
    wait_for("it is dead", lambda: not is_running(pid))
    comes_again(fleet, worker, end, sent)


@pytest.mark.parametrize("end", ENDS)
def test_a_process_that_runs_one_job_is_not_killed_for_the_next_that_it_has_not_read(
    fleet: Fleet, end: str
) -> None:
    worker, pid = deaf(fleet, "never", FLEET_DOUBLE_BOOKED="1")
    first = fleet.send("late", "first", "open").id
    wait_for("the first runs", lambda: fleet.attempts(first) == [(1, "running")])
    (fleet.folder / f"deaf-until-{end}").touch()
    second = fleet.send("late", "second", 0).id
    wait_for("the second is granted", lambda: fleet.attempts(second) == [(1, "claimed")])
    go(fleet)
    wait_for("it is flushed", (fleet.folder / "flushed").exists)
    (fleet.folder / "open").touch()
    for id in (first, second):
        wait_for("it succeeds", lambda id=id: fleet.attempts(id) == [(1, "succeeded")])
    assert {line.pid for line in fleet.starts()} == {pid}
    ends_well(fleet, worker, end)
