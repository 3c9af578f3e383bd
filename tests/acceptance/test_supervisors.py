"""celery multi, and supervisors that signal every process at once: each end is a goodbye or is recovered."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import broker_urls
from tests.acceptance.watching import is_running, losses, nothing_left_in_the_broker
from tests.fleet import ROOT, Fleet, Worker, wait_for

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path, **broker_urls("redis", request))
    yield made
    if getattr(request.node, "failed", False):
        print(made.story())
    made.close()


# -- celery multi ---------------------------------------------------------------


def multi(fleet: Fleet, verb: str, *options: str) -> None:
    """`celery multi VERB` for the nodes a@test and b@test."""
    places = [f"--pidfile={fleet.folder}/%n.pid", f"--logfile={fleet.folder}/%n.log"]
    command = [sys.executable, "-m", "celery", "multi", verb, "a@test", "b@test", *places, *options]
    with (fleet.folder / "multi.log").open("ab") as log:
        subprocess.run(
            command, cwd=ROOT, env=fleet.environment, stdout=log, stderr=log, timeout=60, check=True
        )


def node_pid(fleet: Fleet, name: str) -> int:
    def pid() -> int:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int((fleet.folder / f"{name}.pid").read_text())
        return 0

    return wait_for(f"the pid of {name}", pid)


def started_by_multi(fleet: Fleet) -> list[int]:
    """The nodes' pids, once both take tasks."""
    started = ["-A", "tests.fleet_app", "-c", "2", "-l", "INFO", "--without-gossip", "--without-mingle"]
    multi(fleet, "start", *started)
    for name in ("a", "b"):
        log = fleet.folder / f"{name}.log"
        wait_for(f"{name} ready", lambda log=log: log.exists() and "ready." in log.read_text())  # type: ignore[misc]
    return [node_pid(fleet, name) for name in ("a", "b")]


@pytest.mark.slow
def test_nodes_of_celery_multi_record_and_say_goodbye_and_one_that_is_killed_is_taken_over(
    fleet: Fleet,
) -> None:
    pids = started_by_multi(fleet)
    try:
        sent = [fleet.send(name, key, 0).id for key in range(5) for name in ("late", "early")]
        wait_for("all on record", lambda: all(fleet.attempts(id) == [(1, "succeeded")] for id in sent))
        late = [fleet.send("late", key, "open").id for key in range(4)]
        wait_for("all held", lambda: fleet.open_attempts() == 4)
        running = wait_for("one runs", lambda: [x for x in fleet.starts() if x.task_id in late])[0]
        pids.sort(key=lambda pid: pid != parent_of(running.pid))
        victim = next(name for name in ("a", "b") if node_pid(fleet, name) == pids[0])
        os.kill(pids[0], signal.SIGKILL)
        (fleet.folder / "open").touch()
        wait_for("all ended", lambda: {x.task_id for x in fleet.ends()} >= set(late))
        wait_for("no attempt left open", lambda: fleet.open_attempts() == 0)
        assert fleet.run_twice() == []
        multi(fleet, "stopwait")
        wait_for("ended", lambda: not any(is_running(pid) for pid in pids))
        wait_for("goodbye", lambda: sorted(fleet.incarnations().values()) == [["gone"], ["lost"]])
        assert fleet.incarnations()[victim] == ["lost"]
        assert fleet.attempts(running.task_id) == [(1, "lost"), (2, "succeeded")]
        nothing_left_in_the_broker(fleet)
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def parent_of(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


# -- signals to many --------------------------------------------------------------


def group(worker: Worker, number: int) -> None:
    """The process group: the recorder is in a session of its own."""
    os.killpg(worker.pid, number)


def control_group(worker: Worker, number: int) -> None:
    """Every process, the recorder first: systemd with KillMode=control-group."""
    for pid in [*worker.recorders(), *worker.pool(), worker.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def busy(fleet: Fleet, worker: Worker) -> tuple[str, list[str]]:
    """A late task that runs until `open` is there, and tasks that wait behind it."""
    late = fleet.send("late", worker.name, "open").id
    wait_for("it runs on record", lambda: fleet.attempts(late) == [(1, "running")])
    other = fleet.send("late", f"{worker.name}-2", "open").id
    held = [fleet.send(name, key, 0).id for key, name in enumerate(("late", "early"))]
    wait_for("held", lambda: fleet.open_attempts() == 4)
    return late, [other, *held]


@pytest.mark.parametrize("to", [pytest.param(group, marks=pytest.mark.slow), control_group])
def test_a_sigterm_to_all_its_processes_ends_a_worker_with_a_goodbye_and_leaves_nothing_stale(
    fleet: Fleet, to: Callable[[Worker, int], None]
) -> None:
    worker = fleet.worker("first")
    late, others = busy(fleet, worker)
    family = [worker.recorder(), *worker.pool()]
    to(worker, signal.SIGTERM)
    wait_for("it shuts down", lambda: "Warm shutdown" in worker.text())
    (fleet.folder / "open").touch()
    worker.process.wait(30)
    wait_for("nothing of it left", lambda: not any(is_running(pid) for pid in family), 5)
    assert fleet.incarnations() == {"first": ["gone"]}
    assert fleet.open_attempts() == 0
    fleet.worker("second")
    sent = {late, *others}
    wait_for("all ended", lambda: {line.task_id for line in fleet.ends()} == sent)
    wait_for("on record", lambda: all(fleet.attempts(id)[-1][1] == "succeeded" for id in sent))
    assert fleet.run_twice() == []
    assert losses(fleet) == 0
    nothing_left_in_the_broker(fleet)
    assert fleet.errors() == []


@pytest.mark.parametrize("to", [pytest.param(group, marks=pytest.mark.slow), control_group])
def test_a_sigkill_to_all_its_processes_after_a_vain_sigterm_brings_its_tasks_back(
    fleet: Fleet, to: Callable[[Worker, int], None]
) -> None:
    worker = fleet.worker("first")
    late, others = busy(fleet, worker)
    family = [worker.recorder(), *worker.pool()]
    fleet.worker("second")
    to(worker, signal.SIGTERM)
    wait_for("it shuts down", lambda: "Warm shutdown" in worker.text())
    to(worker, signal.SIGKILL)
    worker.process.wait(30)
    wait_for("nothing of it left", lambda: not any(is_running(pid) for pid in family), 5)
    (fleet.folder / "open").touch()
    sent = {late, *others}
    wait_for("all ended", lambda: {line.task_id for line in fleet.ends()} == sent)
    wait_for("no attempt left open", lambda: fleet.open_attempts() == 0)
    assert fleet.run_twice() == []
    assert fleet.attempts(late) == [(1, "lost"), (2, "succeeded")]
    assert fleet.incarnations() == {"first": ["lost"], "second": ["alive"]}
    nothing_left_in_the_broker(fleet)
    assert fleet.errors() == []
