"""In a container: pid 1, a file system that cannot be written, no /dev/shm. All of it works there."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.acceptance.conftest import broker_urls
from tests.acceptance.containers import container, entered, zombies
from tests.acceptance.unharmed import all_run_once
from tests.acceptance.watching import is_running
from tests.fleet import Fleet, Worker, wait_for
from tests.left_out import needs

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def bare() -> list[str]:
    """Nothing but the fleet's folder can be written, and there is no shared memory."""
    with needs("pid namespaces"):
        return container(read_only=True, shm=False)


@pytest.fixture(scope="module")
def read_only() -> list[str]:
    with needs("pid namespaces"):
        return container(read_only=True)


def pid_inside(worker: Worker) -> int:
    status = Path(f"/proc/{worker.pid}/status").read_text()
    return int(status.partition("NSpid:")[2].splitlines()[0].split()[-1])


def is_at_home(fleet: Fleet, worker: Worker) -> None:
    """Tasks go on record, a killed recorder is replaced, nothing stays as a zombie, the goodbye is clean."""
    assert pid_inside(worker) == 1
    sent = [fleet.send(name, key, 0, queue=worker.name).id for key in range(5) for name in ("late", "early")]
    late = fleet.send("late", "open", f"open-{worker.name}", queue=worker.name).id
    wait_for("it runs on record", lambda: fleet.attempts(late) == [(1, "running")])
    first = worker.recorder()
    os.kill(first, signal.SIGKILL)
    wait_for("another recorder", lambda: worker.recorders() not in ([first], []))
    (fleet.folder / f"open-{worker.name}").touch()
    all_run_once(fleet, [*sent, late])
    assert zombies(worker) == []
    family = [worker.recorder(), *worker.pool()]
    worker.send_signal(signal.SIGTERM)
    assert worker.process.wait(30) == 0
    assert not any(is_running(pid) for pid in family)
    assert fleet.incarnations() == {worker.name: ["gone"]}


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_a_worker_that_is_pid_1_can_write_nowhere_and_has_no_shared_memory_loses_nothing(
    bare: list[str], request: pytest.FixtureRequest, tmp_path: Path, pool: str
) -> None:
    """Celery's own prefork pool cannot start there: its locks are in shared memory, its files in /tmp."""
    fleet = Fleet(tmp_path, **broker_urls("redis", request))
    try:
        worker = fleet.worker("bare", "-P", pool, "-Q", "bare", inside=bare, wait=False)
        is_at_home(fleet, entered(worker))
    finally:
        fleet.close()


def test_a_prefork_worker_that_is_pid_1_and_can_write_only_temporary_files_loses_nothing(
    read_only: list[str], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    fleet = Fleet(tmp_path, **broker_urls("redis", request))
    try:
        worker = fleet.worker("prefork", "-Q", "prefork", inside=read_only, wait=False, TMPDIR=str(tmp_path))
        is_at_home(fleet, entered(worker))
    finally:
        fleet.close()
