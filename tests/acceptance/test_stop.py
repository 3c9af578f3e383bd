"""`crisper stop`, and Celery's own revoke, with real workers: what is stopped stays stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError
from celery.states import READY_STATES
from kombu.exceptions import DecodeError

from crisper.store.migrate import upgrade
from tests.acceptance.asking import crisper, state_of
from tests.acceptance.watching import is_running, messages_left
from tests.celery.conftest import module_urls
from tests.celery.copies import publish, publish_copy, refused
from tests.fleet import Fleet, Worker, wait_for

REASON = "the wrong customer"


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    name = str(request.param)
    fleet = made(tmp_path_factory.mktemp(name), **module_urls(name, request))
    yield fleet
    print(fleet.story())
    fleet.close()


def made(folder: Path, **urls: str) -> Fleet:
    """With a registry that can be looked into before the first worker is up."""
    fleet = Fleet(folder, **urls)
    upgrade(fleet.registry_url)
    return fleet


@pytest.fixture(scope="module")
def worker(fleet: Fleet) -> Worker:
    return fleet.worker("first", "-c", "5")


def stop(fleet: Fleet, *task_ids: str) -> None:
    answer = crisper(fleet, "stop", *task_ids, "--yes", "--reason", REASON)
    assert {task["outcome"] for task in answer["tasks"]} == {"done"}, answer


def becomes(fleet: Fleet, task_id: str, *states: str, seconds: float = 30) -> None:
    wait_for(f"{states}", lambda: [s for _, s in fleet.attempts(task_id)] == list(states), seconds)


def all_acknowledged(fleet: Fleet) -> None:
    wait_for("nothing left in the broker", lambda: messages_left(fleet) == (0, 0))


def outcome(fleet: Fleet, task_id: str) -> tuple[str, Any]:
    """State and result, as any caller is told; asked anew, because an id may have several in turn."""

    def told() -> tuple[str, Any] | None:
        try:
            meta = fleet.app.backend.get_task_meta(task_id, cache=False)
        except DecodeError:  # a file that two processes write at once
            return None
        return (meta["status"], meta["result"]) if meta["status"] in READY_STATES else None

    return wait_for(f"a result of {task_id}", told)


def is_told(fleet: Fleet, task_id: str) -> None:
    """No caller waits for ever: it is told who stopped the task, and why."""
    state, error = outcome(fleet, task_id)
    assert state == "REVOKED"
    assert isinstance(error, TaskRevokedError)
    assert re.fullmatch(f"stopped by .*@.*: {REASON}", str(error)), error


def runs_as_ever(fleet: Fleet, tasks: int) -> None:
    """No slot and no prefetch is lost."""
    sent = [fleet.send("late", "after", "all at once") for _ in range(tasks)]
    wait_for("all at once", lambda: all(fleet.starts(one.id) for one in sent))
    (fleet.folder / "all at once").touch()
    assert [outcome(fleet, one.id) for one in sent] == [("SUCCESS", "after")] * tasks


def test_what_runs_is_ended_what_waits_never_begins_and_a_person_can_undo_it(
    fleet: Fleet, worker: Worker
) -> None:
    running = {name: fleet.send(name, name, "never") for name in ("late", "early")}
    running["stubborn"] = fleet.send("told_to_end", "stubborn", "never")
    timely, neighbour = fleet.send("told_to_end", "timely", "soon"), fleet.send("late", "neighbour", "open")
    for sent in (*running.values(), timely, neighbour):
        becomes(fleet, sent.id, "running")
    waiting = {name: fleet.send(name, name, 0) for name in ("late", "early", "limited")}
    waiting["later"] = fleet.send("late", "later", 0, countdown=3600)
    copied = publish(fleet, "late", "copied", 0)
    for id in (copied.id, *(sent.id for sent in waiting.values())):
        becomes(fleet, id, "claimed")

    stopped = [*waiting.values(), *running.values()]  # whose slots would let what waits begin
    stop(fleet, copied.id, *(sent.id for sent in stopped), timely.id)

    for sent in stopped:
        becomes(fleet, sent.id, "revoked")
        is_told(fleet, sent.id)
    becomes(fleet, copied.id, "revoked")
    becomes(fleet, timely.id, "succeeded")  # it had its time, and used it
    assert outcome(fleet, timely.id) == ("SUCCESS", "timely")
    for sent in running.values():
        [start] = fleet.starts(sent.id)
        assert not is_running(start.pid)
        assert fleet.ends(sent.id) == []
    for id in (copied.id, *(sent.id for sent in waiting.values())):
        assert fleet.starts(id) == []
    assert fleet.recoveries(running["late"].id) == []  # it was not lost
    for _ in range(2):
        publish_copy(fleet, copied)
    assert set(refused(fleet, copied.id, 2)) == {"finished: revoked"}

    assert fleet.attempts(neighbour.id) == [(1, "running")]
    (fleet.folder / "open").touch()
    assert outcome(fleet, neighbour.id) == ("SUCCESS", "neighbour")
    all_acknowledged(fleet)
    runs_as_ever(fleet, 5)

    (fleet.folder / "never").touch()
    recovered = running["late"].id
    assert crisper(fleet, "recover", recovered)["tasks"][0]["reason"] == "sent again"
    becomes(fleet, recovered, "revoked", "succeeded")
    (fleet.folder / "never").unlink()
    assert outcome(fleet, recovered) == ("SUCCESS", "late")
    all_acknowledged(fleet)
    assert worker.process.poll() is None
    assert fleet.errors() == []


def test_a_task_that_sends_itself_again_and_again_is_stopped(fleet: Fleet, worker: Worker) -> None:
    """Each retry is another message and another attempt; the order goes with the task."""
    sent = fleet.send("retry_always", "storm")
    wait_for("a storm of retries", lambda: len(fleet.starts(sent.id)) > 5)
    with fleet.store() as store:
        assert store.stop(sent.id, by="ann@desk", reason=REASON) is not None
    wait_for("revoked", lambda: state_of(fleet, sent.id) == "revoked")
    is_told(fleet, sent.id)
    all_acknowledged(fleet)
    begun = len(fleet.starts(sent.id))
    states = [state for _, state in fleet.attempts(sent.id)]
    assert states == ["retried"] * (len(states) - 1) + ["revoked"]
    runs_as_ever(fleet, 5)
    assert len(fleet.starts(sent.id)) == begun


def test_celerys_own_revoke_works_as_ever_and_is_on_record(fleet: Fleet, worker: Worker) -> None:
    running, early = fleet.send("late", "revoked", "never"), fleet.send("early", "revoked", "never")
    waiting = publish(fleet, "late", "waits", 0, countdown=2)
    for id in (running.id, early.id):
        becomes(fleet, id, "running")
    becomes(fleet, waiting.id, "claimed")
    fleet.app.control.revoke(waiting.id, reply=True)
    fleet.app.control.revoke([running.id, early.id], terminate=True, reply=True)
    for id in (running.id, early.id, waiting.id):
        becomes(fleet, id, "revoked")
        assert outcome(fleet, id)[0] == "REVOKED"
    for sent in (running, early):
        [start] = fleet.starts(sent.id)
        wait_for("its process is gone", lambda start=start: not is_running(start.pid))
        state, error = outcome(fleet, sent.id)
        assert (state, str(error)) == ("REVOKED", "terminated")
    assert fleet.starts(waiting.id) == []
    assert fleet.recoveries(running.id) == fleet.recoveries(early.id) == []
    all_acknowledged(fleet)
    runs_as_ever(fleet, 5)
    assert fleet.errors() == []


def test_what_is_stopped_while_its_workers_are_down_does_not_come_back(fleet: Fleet, worker: Worker) -> None:
    """Given back by a shutdown, held by a dead worker that nobody has judged, and lost meanwhile."""
    given_back = fleet.send("late", "given back", 0, countdown=20)
    becomes(fleet, given_back.id, "claimed")
    worker.stop()
    becomes(fleet, given_back.id, "released")
    second = fleet.worker("second", "-c", "2")
    dead, quick = fleet.send("late", "dead", "never"), fleet.send("early", "quick", "never")
    spared, waiting = fleet.send("late", "spared", "spared"), fleet.send("late", "waiting", 0)
    for sent in (dead, quick):
        becomes(fleet, sent.id, "running")
    for sent in (spared, waiting):
        becomes(fleet, sent.id, "claimed")
    for pid in (second.recorder(), second.pid):
        os.kill(pid, signal.SIGKILL)
    second.process.wait(10)
    stopped = [given_back, dead, quick, waiting]
    stop(fleet, *(sent.id for sent in stopped))
    assert fleet.attempts(dead.id) == [(1, "running")]

    third = fleet.worker("third", "-c", "2")
    for sent in stopped:
        wait_for("revoked", lambda sent=sent: state_of(fleet, sent.id) == "revoked", 40)
        is_told(fleet, sent.id)
    (fleet.folder / "spared").touch()
    assert outcome(fleet, spared.id) == ("SUCCESS", "spared")
    all_acknowledged(fleet)
    assert fleet.attempts(dead.id) == [(1, "lost")]
    assert fleet.recoveries(dead.id) == [(1, "done", "revoked")]
    assert [len(fleet.starts(sent.id)) for sent in stopped] == [0, 1, 1, 0]
    runs_as_ever(fleet, 2)
    assert fleet.errors() == []

    lost = fleet.send("late", "lost", "never")
    becomes(fleet, lost.id, "running")
    third.kill()
    becomes(fleet, lost.id, "lost")
    assert crisper(fleet, "stop", lost.id, "--reason", REASON)["tasks"][0]["reason"] == "stopped"
    is_told(fleet, lost.id)  # and no worker is up
    assert fleet.recoveries(lost.id) == [(1, "done", "revoked")]


def test_workers_without_a_loop_stop_tasks_and_say_where_they_cannot(tmp_path: Path) -> None:
    """The embedded broker; a body in a thread cannot be stopped by itself, a greenlet can."""
    fleet = made(tmp_path)
    try:
        inside = [name for name in ("threads", "gevent") if name == "threads" or find_spec(name)]
        pools = ["prefork", *inside]
        workers = [fleet.worker(name, "-P", name, "-c", "1", "-Q", name, wait=False) for name in pools]
        running = {name: fleet.send("late", name, f"open {name}", queue=name) for name in pools}
        for worker, sent in zip(workers, running.values(), strict=True):
            worker.ready(40)
            becomes(fleet, sent.id, "running")
        waiting = [fleet.send(task, "waits", 0, queue=name) for name in pools for task in ("late", "early")]
        for sent in waiting:
            becomes(fleet, sent.id, "claimed")
        ids = [sent.id for sent in (*waiting, *running.values())]
        command = [sys.executable, "-m", "crisper", "-A", "tests.fleet_app", "stop", *ids, "--yes"]
        ended = subprocess.run(
            [*command, "--reason", REASON], env=fleet.environment, capture_output=True, text=True,
            check=False, timeout=60,
        )  # fmt: skip
        assert ended.returncode == 75, ended.stderr
        ends = [running.pop(name) for name in ("prefork", "gevent") if name in running]
        for sent in (*ends, *waiting):
            becomes(fleet, sent.id, "revoked")
            is_told(fleet, sent.id)
        for name, sent in running.items():
            assert f"{sent.id}: its attempt 1 runs inside the process of {name}@test" in ended.stderr
            assert fleet.attempts(sent.id) == [(1, "running")]
            (fleet.folder / f"open {name}").touch()
            assert outcome(fleet, sent.id) == ("SUCCESS", name)
        for name in pools:
            after = fleet.send("late", "after", 0, queue=name)
            assert outcome(fleet, after.id) == ("SUCCESS", "after")
        assert [fleet.starts(sent.id) for sent in waiting] == [[]] * len(waiting)
        assert all(worker.process.poll() is None for worker in workers)
        assert fleet.errors() == []
    finally:
        print(fleet.story())
        fleet.close()


def test_a_solo_worker_hears_of_an_order_before_it_begins_the_next_body(
    rabbitmq_vhost: str, tmp_path: Path
) -> None:
    """Its loop stands still while a body runs, and what it holds begins in the same turn."""
    fleet = made(tmp_path, broker=rabbitmq_vhost)
    try:
        first, second, third = (
            fleet.send("late", 1, "open"),
            fleet.send("late", 2, 0),
            fleet.send("late", 3, 0),
        )
        fleet.worker("solo", "-P", "solo", "-c", "1", wait=False)
        becomes(fleet, first.id, "running", seconds=40)
        for sent in (second, third):
            becomes(fleet, sent.id, "claimed")
        with fleet.store() as store:
            assert store.stop(second.id, by="ann@desk", reason=REASON) is not None
        told = "SELECT seen_at FROM crisper_incarnation"
        before = fleet.rows(told)
        wait_for("the order is passed on", lambda: fleet.rows(told)[0][0] > before[0][0] + 1500)
        (fleet.folder / "open").touch()
        assert outcome(fleet, third.id) == ("SUCCESS", 3)
        becomes(fleet, second.id, "revoked")
        is_told(fleet, second.id)
        assert fleet.starts(second.id) == []
        all_acknowledged(fleet)
        assert fleet.errors() == []
    finally:
        print(fleet.story())
        fleet.close()
