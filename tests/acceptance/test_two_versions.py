"""A rolling upgrade: workers of two Crispers on one registry, and one brings back what the other lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import crisper as this
from crisper.store import migrate
from tests.acceptance.asking import crisper
from tests.acceptance.conftest import broker_urls
from tests.fleet import ROOT, Fleet, Worker, wait_for
from tests.schema import NEWER_REVISION, NEWER_VERSION, newer_crisper


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    return newer_crisper(tmp_path / "newer")


@pytest.fixture
def fleet(request: pytest.FixtureRequest, tmp_path: Path, postgres_database: str) -> Iterator[Fleet]:
    migrate.upgrade(postgres_database)
    made = Fleet(tmp_path, registry=postgres_database, **broker_urls("redis", request))
    yield made
    made.close()


def ways(newer: Path) -> str:
    return os.pathsep.join((str(newer), str(ROOT)))


def upgraded_by(newer: Path, url: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "crisper", "--registry", url, "migrate"],
        env={**os.environ, "PYTHONPATH": ways(newer)}, check=True, capture_output=True, timeout=60,
    )  # fmt: skip


def test_what_a_worker_of_one_version_loses_a_worker_of_the_other_brings_back(
    fleet: Fleet, newer: Path
) -> None:
    """The old worker lives through the upgrade of the registry, another old one starts after it."""
    old = fleet.worker("old")
    first = [fleet.send("late", key, "open").id for key in range(4)]
    wait_for("all are claimed", lambda: fleet.open_attempts() == 4)
    upgraded_by(newer, fleet.registry_url)
    assert fleet.rows("SELECT version_num FROM crisper_alembic_version") == [(NEWER_REVISION,)]
    new = fleet.worker("new", "-c", "4", PYTHONPATH=ways(newer))
    assert crisper(fleet, "status")["workers"]["versions"] == {this.__version__: 1, NEWER_VERSION: 1}
    old.kill()
    wait_for("the newer one runs them", lambda: all_run_on(fleet, new, first))
    again = fleet.worker("again", "-c", "4")
    new.kill()
    wait_for("the older one runs them", lambda: all_run_on(fleet, again, first))
    workers = {one["hostname"]: one for one in crisper(fleet, "workers")["workers"]}
    versions = {name: one["version"] for name, one in workers.items()}
    mine = this.__version__
    assert versions == {"old@test": mine, "new@test": NEWER_VERSION, "again@test": mine}
    (fleet.folder / "open").touch()
    wait_for("all end", lambda: {line.task_id for line in fleet.ends()} == set(first))
    wait_for("no attempt left open", lambda: fleet.open_attempts() == 0)
    assert [fleet.attempts(id) for id in first] == [[(1, "lost"), (2, "lost"), (3, "succeeded")]] * 4
    assert fleet.errors() == []


def all_run_on(fleet: Fleet, worker: Worker, ids: list[str]) -> bool:
    pool = set(worker.pool())
    return {line.task_id for line in fleet.starts() if line.pid in pool} == set(ids)
