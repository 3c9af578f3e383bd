"""The whole way on a registry on MariaDB: workers, recorders, couriers, the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import broker_urls
from tests.acceptance.test_recorder import resident_mb
from tests.fleet import ROOT, Fleet, wait_for


@pytest.fixture
def fleet(mariadb_database: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    migrated = crisper(mariadb_database, "migrate")
    assert migrated.returncode == 0, migrated.stderr
    made = Fleet(tmp_path, registry=mariadb_database, **broker_urls("redis", request))
    yield made
    if getattr(request.node, "failed", False):
        print(made.story())
    made.close()


def crisper(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "crisper", "--registry", url, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)


def test_tasks_of_a_killed_worker_run_again_with_the_registry_on_mariadb(fleet: Fleet) -> None:
    first = fleet.worker("first")
    sent = [fleet.send("late", key, 4).id for key in range(4)]
    wait_for("two running", lambda: len(fleet.starts()) == 2)
    wait_for("all claimed", lambda: fleet.open_attempts() == 4)
    second = fleet.worker("second", "-c", "4")
    killed_at = first.kill()
    wait_for(
        "all started again", lambda: {x.task_id for x in fleet.starts() if x.at > killed_at} == set(sent)
    )
    wait_for("every task finished", lambda: {line.task_id for line in fleet.ends()} == set(sent))
    wait_for("no attempt left open", lambda: fleet.open_attempts() == 0)
    assert fleet.run_twice() == []
    assert {fleet.attempts(id)[-1] for id in sent} == {(2, "succeeded")}
    assert fleet.incarnations()["first"] == ["lost"]
    assert second.stop() == 0
    wait_for("gone", lambda: fleet.incarnations()["second"] == ["gone"])
    assert fleet.errors() == []


def test_a_dead_fleet_is_swept_from_the_command_line_on_mariadb(fleet: Fleet) -> None:
    """Parent and recorder die together, and nobody is left to see it."""
    worker = fleet.worker("alone")
    sent = fleet.send("late", 1, 30).id
    wait_for("running on record", lambda: fleet.attempts(sent) == [(1, "running")])
    status = json.loads(crisper(fleet.registry_url, "status", "--json").stdout)
    assert status["registry"]["database"] == "mariadb"
    assert (status["workers"]["alive"], status["attempts"]["running"]) == (1, 1)
    recorder = worker.recorder()
    os.kill(recorder, signal.SIGSTOP)
    worker.kill()
    os.kill(recorder, signal.SIGKILL)
    assert fleet.attempts(sent) == [(1, "running")]
    swept = crisper(fleet.registry_url, "sweep")
    assert swept.returncode in (0, 1), swept.stderr
    assert fleet.attempts(sent) == [(1, "lost")]
    shown = crisper(fleet.registry_url, "show", sent)
    assert "lost" in shown.stdout


def test_a_recorder_on_mariadb_stays_small_and_holds_two_connections(fleet: Fleet) -> None:
    worker = fleet.worker("small", "-c", "8")
    sent = [fleet.send("noop", key) for key in range(2000)]
    finished = "SELECT count(*) FROM crisper_attempt WHERE state = 'succeeded'"
    wait_for("2,000 tasks finished", lambda: fleet.rows(finished)[0][0] == len(sent), 50)
    size = resident_mb(worker.recorder())
    print(f"recorder on MariaDB: {size:.1f} MB")
    assert size < 45
    ours = "SELECT count(*) FROM information_schema.processlist WHERE db = DATABASE()"
    assert fleet.rows(ours) == [(3,)]  # this very question has one too
    assert fleet.errors() == []
