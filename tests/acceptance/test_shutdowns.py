"""A shutdown, of whatever kind, is a goodbye: no loss, no stale attempt, every message where it belongs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from crisper.errors import TaskLost
from tests.acceptance.conftest import broker_urls
from tests.acceptance.watching import losses, nothing_left_in_the_broker
from tests.fleet import Fleet, Worker, wait_for

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(params=["redis", "rabbitmq"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path, **broker_urls(request.param, request))
    yield made
    made.close()


class Sent(NamedTuple):
    late: str
    early: str
    resend: str
    prefetched: list[str]

    @property
    def running(self) -> list[str]:
        return [self.late, self.early, self.resend]

    @property
    def all(self) -> list[str]:
        return [*self.running, *self.prefetched]


def busy(fleet: Fleet, worker: Worker) -> Sent:
    """One late and two early tasks run until the file `open` is there; three wait behind them."""
    running = [fleet.send(name, name, "open").id for name in ("late", "early", "early_resend")]
    wait_for("running on record", lambda: [fleet.attempts(id) for id in running] == [[(1, "running")]] * 3)
    prefetched = [fleet.send(name, key, 0).id for key, name in enumerate(("late", "early", "late"))]
    wait_for("prefetched", lambda: fleet.open_attempts() == 6)
    return Sent(*running, prefetched)


def warm(worker: Worker) -> None:
    worker.send_signal(signal.SIGTERM)
    wait_for("it shuts down", lambda: "Warm shutdown" in worker.text())


def warm_by_ctrl_c(worker: Worker) -> None:
    worker.send_signal(signal.SIGINT)
    wait_for("it shuts down", lambda: "Warm shutdown" in worker.text())


def cold(worker: Worker) -> None:
    worker.send_signal(signal.SIGQUIT)


def cold_by_ctrl_c_twice(worker: Worker) -> None:
    warm_by_ctrl_c(worker)
    worker.send_signal(signal.SIGINT)


def warm_then_cold(worker: Worker) -> None:
    warm(worker)
    worker.send_signal(signal.SIGQUIT)


def ended(fleet: Fleet, worker: Worker) -> None:
    worker.process.wait(30)
    wait_for("it said goodbye", lambda: fleet.incarnations()[worker.name] == ["gone"], 10)
    wait_for("no attempt left open", lambda: fleet.open_attempts() == 0, 5)


def all_end_once(fleet: Fleet, sent: list[str]) -> None:
    wait_for("all ended", lambda: {line.task_id for line in fleet.ends()} == set(sent))
    wait_for("on record", lambda: all(fleet.attempts(id)[-1][1] == "succeeded" for id in sent))
    assert fleet.run_twice() == []


@pytest.mark.parametrize(
    ("end", "soft"), [(warm, "0"), (warm_by_ctrl_c, "0"), (cold, "20")], ids=["warm", "ctrl-c", "soft"]
)
def test_a_patient_shutdown_lets_what_runs_finish_and_gives_back_the_rest(
    fleet: Fleet, end: Callable[[Worker], None], soft: str
) -> None:
    first = fleet.worker("first", "-c", "3", FLEET_SOFT=soft)
    sent = busy(fleet, first)
    end(first)
    (fleet.folder / "open").touch()
    ended(fleet, first)
    assert [fleet.attempts(id) for id in sent.running] == [[(1, "succeeded")]] * 3
    assert [fleet.attempts(id) for id in sent.prefetched] == [[(1, "released")]] * 3
    fleet.worker("second")
    all_end_once(fleet, sent.all)
    assert [fleet.attempts(id) for id in sent.prefetched] == [[(1, "released"), (2, "succeeded")]] * 3
    nothing_left_in_the_broker(fleet)
    assert losses(fleet) == 0
    assert fleet.errors() == []


@pytest.mark.parametrize(
    ("end", "soft"),
    [(cold, "0"), (cold, "1"), (cold_by_ctrl_c_twice, "0"), (warm_then_cold, "0")],
    ids=["cold", "soft-too-short", "ctrl-c-twice", "warm-then-cold"],
)
def test_a_cold_shutdown_gives_back_late_tasks_and_decides_about_early_ones(
    fleet: Fleet, end: Callable[[Worker], None], soft: str
) -> None:
    first = fleet.worker("first", "-c", "3", FLEET_SOFT=soft)
    sent = busy(fleet, first)
    end(first)
    ended(fleet, first)
    assert fleet.ends() == []
    assert fleet.attempts(sent.late) == [(1, "released")]
    assert [fleet.attempts(id) for id in sent.prefetched] == [[(1, "released")]] * 3
    assert fleet.attempts(sent.early) == fleet.attempts(sent.resend) == [(1, "lost")]
    lost = fleet.rows("SELECT cause, losses FROM crisper_recovery")
    assert lost == [("shutdown", 0)] * 2, "a shutdown's victims do not count against the loss budget"

    fleet.worker("second", "-c", "3")
    (fleet.folder / "open").touch()
    all_end_once(fleet, [sent.late, sent.resend, *sent.prefetched])
    assert fleet.attempts(sent.late) == [(1, "released"), (2, "succeeded")]
    assert fleet.attempts(sent.resend) == [(1, "lost"), (2, "succeeded")]
    early = fleet.app.AsyncResult(sent.early)
    wait_for("its callers are told", lambda: early.state == "FAILURE")
    assert isinstance(early.result, TaskLost)
    assert fleet.attempts(sent.early) == [(1, "lost")]
    nothing_left_in_the_broker(fleet)
    assert losses(fleet) == 0
    assert fleet.errors() == []


def test_what_was_granted_after_the_last_turn_of_the_loop_is_released_too(fleet: Fleet) -> None:
    first = fleet.worker("first", "-c", "1")
    running = fleet.send("late", "late", "open").id
    wait_for("running on record", lambda: fleet.attempts(running) == [(1, "running")])
    recorder = first.recorder()
    os.kill(recorder, signal.SIGSTOP)  # the claims are asked for, and nobody answers
    prefetched = [fleet.send(name, key, 0).id for key, name in enumerate(("late", "early"))]
    wait_for("both arrived", lambda: all(f"[{id}] received" in first.text() for id in prefetched))
    first.send_signal(signal.SIGQUIT)
    wait_for("it shuts down", lambda: "Cold shutdown" in first.text())
    os.kill(recorder, signal.SIGCONT)
    ended(fleet, first)
    assert [fleet.attempts(id) for id in (running, *prefetched)] == [[(1, "released")]] * 3
    (fleet.folder / "open").touch()
    fleet.worker("second")
    all_end_once(fleet, [running, *prefetched])
    nothing_left_in_the_broker(fleet)
    assert losses(fleet) == 0
    assert fleet.errors() == []
