"""A cold shutdown that is asked for while the worker's loop is about something else."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import broker_urls
from tests.acceptance.watching import nothing_left_in_the_broker
from tests.fleet import Fleet, Worker, wait_for

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path, **broker_urls("rabbitmq", request))
    yield made
    made.close()


def interrupted(fleet: Fleet, **environment: str) -> Worker:
    return fleet.worker("cold", "-c", "1", "--include", "tests.fleet_interrupted", **environment)


def gives_all_back(fleet: Fleet, worker: Worker, sent: set[str]) -> None:
    worker.process.wait(20)
    fleet.worker("next")
    wait_for("all end", lambda: {line.task_id for line in fleet.ends()} >= sent)
    wait_for("nothing is open", lambda: fleet.open_attempts() == 0)
    nothing_left_in_the_broker(fleet)
    assert fleet.errors() == []


@pytest.mark.parametrize("amid", ["write", "read"])
def test_a_worker_told_so_amid_a_frame_ends_and_gives_all_back(fleet: Fleet, amid: str) -> None:
    worker = interrupted(fleet)
    running = fleet.send("late", "runs", "open").id
    waiting = {fleet.send("late", f"waits-{number}", 0).id for number in range(2)}
    wait_for("one runs", lambda: fleet.attempts(running) == [(1, "running")])
    told = fleet.folder / f"quit-amid-{amid}"
    told.touch()
    late = fleet.send("late", "comes", 0).id
    (fleet.folder / "open").touch()
    wait_for("it is told", lambda: not told.exists())
    gives_all_back(fleet, worker, {running, late} | waiting)


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGTERM])
def test_a_worker_whose_loop_stands_ends_all_the_same(fleet: Fleet, number: signal.Signals) -> None:
    remapped = {"REMAP_SIGTERM": "SIGQUIT"} if number == signal.SIGTERM else {}
    worker = interrupted(fleet, **remapped)
    sent = fleet.send("late", "runs", 60).id
    wait_for("it runs", lambda: fleet.attempts(sent) == [(1, "running")])
    (fleet.folder / "stand").touch()
    wait_for("its loop stands", (fleet.folder / "stands").exists)
    worker.send_signal(number)
    wait_for("it shuts down", lambda: "Cold shutdown" in worker.text())
    (fleet.folder / "stand").unlink()
    worker.process.wait(20)
    wait_for("it is given back", lambda: fleet.attempts(sent) == [(1, "released")])
