"""Children that come and go, pools that are reloaded, workers that start and stop: no loss in any of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import broker_urls
from tests.acceptance.recorder_kills import Stream
from tests.acceptance.unharmed import all_run_once
from tests.fleet import Fleet, Worker, wait_for

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(params=["redis", pytest.param("rabbitmq", marks=pytest.mark.slow)])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path, **broker_urls(request.param, request))
    yield made
    made.close()


def first_of(worker: Worker, pool: list[int]) -> bool:
    """Whether none of the children that there were is left."""
    return not set(pool) & set(worker.pool())


def test_children_replaced_after_every_task_lose_none_and_a_kill_among_them_is_noticed(fleet: Fleet) -> None:
    worker = fleet.worker("forking", "-c", "2", "--max-tasks-per-child", "1")
    sent = [fleet.send(name, key, 0.05).id for key in range(3) for name in ("late", "early")]
    all_run_once(fleet, sent)
    assert len({line.pid for line in fleet.starts()}) == len(sent), "no child ran two tasks"

    late = fleet.send("late", "killed", "open").id
    wait_for("it runs on record", lambda: fleet.attempts(late) == [(1, "running")])
    fleet.worker("heir")
    worker.kill()
    (fleet.folder / "open").touch()
    wait_for("it ran again", lambda: fleet.attempts(late) == [(1, "lost"), (2, "succeeded")])
    assert len(fleet.ends(late)) == 1, "the child that no recorder saw being forked was stopped"


def test_processes_that_die_in_the_same_moment_are_lost_each_and_none_of_their_tasks_runs_on_unheard(
    fleet: Fleet,
) -> None:
    """Celery gives a job to another process whose own has died and was not heard to accept it."""
    fleet.worker("crowded", "-c", "8")
    sent: set[str] = set()
    for _ in range(8):
        sent.update(fleet.send("dies_once", key, "_exit").id for key in range(8))
        wait_for("all end", lambda: {line.task_id for line in fleet.ends()} == sent)
    wait_for("no attempt left open", lambda: fleet.open_attempts() == 0)
    assert {id: fleet.attempts(id) for id in sent} == {id: [(1, "lost"), (2, "succeeded")] for id in sent}


def test_a_pool_that_is_restarted_lets_running_tasks_finish_and_loses_none(fleet: Fleet) -> None:
    worker = fleet.worker("reloaded", "-c", "2", FLEET_RESTARTS="1")
    running = [fleet.send(name, name, "open").id for name in ("late", "early")]
    wait_for("on record", lambda: [fleet.attempts(id) for id in running] == [[(1, "running")]] * 2)
    waiting = [fleet.send(name, key, 0.02).id for key in range(5) for name in ("late", "early")]
    before = worker.pool()
    fleet.app.control.pool_restart()
    (fleet.folder / "open").touch()
    wait_for("other children", lambda: first_of(worker, before))
    more = [fleet.send(name, key, 0.02).id for key in range(5) for name in ("late", "early")]
    all_run_once(fleet, [*running, *waiting, *more])
    assert fleet.incarnations() == {"reloaded": ["alive"]}


@pytest.mark.slow
def test_a_pool_that_grows_and_shrinks_with_its_load_loses_nothing(fleet: Fleet) -> None:
    worker = fleet.worker("breathing", "--autoscale", "4,1", AUTOSCALE_KEEPALIVE="1")
    sent = [fleet.send(name, key, 0.4).id for key in range(6) for name in ("late", "early")]
    wait_for("it grew", lambda: len(worker.pool()) == 4)
    wait_for("it shrank", lambda: len(worker.pool()) == 1, 30)
    sent += [fleet.send(name, key, 0.05).id for key in range(3) for name in ("late", "early")]
    all_run_once(fleet, sent)
    assert fleet.incarnations() == {"breathing": ["alive"]}


def test_workers_that_start_and_stop_at_once_under_load_declare_nobody_and_lose_nothing(fleet: Fleet) -> None:
    first = [fleet.worker(f"first{n}", wait=False) for n in range(2)]
    sent = [fleet.send("late", "declares-the-queue", 0).id]
    with Stream(fleet, 0.05) as stream:
        for worker in first:
            worker.ready()
        wait_for("the stream runs", lambda: len(fleet.ends()) > 10)
        second = [fleet.worker(f"second{n}", wait=False) for n in range(2)]
        for worker in first:
            worker.send_signal(15)
        for worker in second:
            worker.ready()
        for worker in first:
            assert worker.process.wait(30) == 0
        ended = len(fleet.ends())
        wait_for("the stream goes on", lambda: len(fleet.ends()) > ended + 20)
    goes_back = "SELECT count(*) FROM crisper_attempt WHERE state = 'released'"
    released = int(fleet.rows(goes_back)[0][0])
    all_run_once(fleet, [*sent, *stream.sent])
    states = fleet.incarnations()
    assert states == {"first0": ["gone"], "first1": ["gone"], "second0": ["alive"], "second1": ["alive"]}
    print("given back by the shutdowns:", released)
