"""A pool process that is gone although its pool believes it busy: its recorder sees it, and it is lost."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.acceptance.conftest import broker_urls
from tests.acceptance.watching import declare_lost
from tests.fleet import Fleet, wait_for


@pytest.fixture(params=["redis", "filesystem"])
def on(request: pytest.FixtureRequest) -> dict[str, str]:
    """With an event loop, and without one."""
    return broker_urls(str(request.param), request)


def take_away(folder: Path, pid: int) -> None:
    """It is killed, and somebody else waits for it."""
    (folder / "pid").write_text(str(pid))
    (folder / "pid").rename(folder / "victim")
    wait_for("it is killed, and somebody else waited for it", lambda: (folder / "taken").exists())


def test_a_process_whose_end_somebody_else_took_is_found_within_seconds(
    on: dict[str, str], tmp_path: Path
) -> None:
    fleet = Fleet(tmp_path, **on)
    try:
        worker = fleet.worker("one", FLEET_TAKES_CHILDREN="1")
        task = fleet.send("late", "a", "open")
        wait_for("it runs", lambda: fleet.attempts(task.id) == [(1, "running")])
        healthy = fleet.send("late", "b", "open")
        wait_for("both run", lambda: fleet.attempts(healthy.id) == [(1, "running")])
        take_away(tmp_path, fleet.starts(task.id)[0].pid)
        killed_at = time.monotonic()
        wait_for("it runs again", lambda: len(fleet.starts(task.id)) == 2, 10)
        print(f"runs again {time.monotonic() - killed_at:.1f} s after the kill")
        (tmp_path / "open").touch()
        assert [task.get(timeout=20), healthy.get(timeout=20)] == ["a", "b"]
        wait_for("on record", lambda: fleet.attempts(task.id) == [(1, "lost"), (2, "succeeded")])
        wait_for("so is the other", lambda: fleet.attempts(healthy.id) == [(1, "succeeded")])
        assert "had not noticed" in worker.text()
        lost = "SELECT data FROM crisper_event WHERE kind = 'lost' AND task_id = ?"
        [(evidence,)] = fleet.rows(lost, task.id)
        assert "its recorder saw it gone" in evidence
        assert fleet.errors() == []
    finally:
        fleet.close()


def test_the_slot_of_a_process_whose_end_somebody_else_took_is_given_back_though_it_is_fenced(
    on: dict[str, str], tmp_path: Path
) -> None:
    fleet = Fleet(tmp_path, **on, heartbeat_interval=0.5, redelivery_grace=1)
    try:
        worker = fleet.worker("one", "-c", "1", FLEET_TAKES_CHILDREN="1")
        task = fleet.send("late", "a", "open")
        wait_for("it runs", lambda: fleet.attempts(task.id) == [(1, "running")])
        take_away(tmp_path, fleet.starts(task.id)[0].pid)
        declare_lost(fleet)
        wait_for("a new incarnation", lambda: fleet.incarnations() == {"one": ["lost", "alive"]})
        (tmp_path / "open").touch()
        wait_for("it runs again", lambda: fleet.attempts(task.id) == [(1, "lost"), (2, "succeeded")])
        assert worker.stop() == 0
        assert fleet.errors() == []
    finally:
        fleet.close()
