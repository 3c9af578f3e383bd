"""Workers forget by themselves what has been over for longer than `crisper_retention_days`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from crisper.engine.pruner import DAY_MS
from tests.fleet import Fleet, wait_for

#: Another one leads the sweepers after a lease.
QUICK = {"lease": 3.0, "heartbeat_interval": 0.5, "sweep_interval": 0.2}


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path, retention_days=10, **QUICK)
    yield made
    made.close()


def test_what_is_old_and_over_is_forgotten_and_what_is_young_or_open_is_not(fleet: Fleet) -> None:
    first = fleet.worker("first")
    old, young = (fleet.send("late", key, 0).id for key in ("old", "young"))
    for id in (old, young):
        wait_for("it ended", lambda id=id: fleet.attempts(id) == [(1, "succeeded")])
    running = fleet.send("late", "running", "open").id
    wait_for("it runs", lambda: fleet.attempts(running) == [(1, "running")])
    with fleet.store() as store:
        assert [one.about["retention"] for one in store.alive()] == [[10, 90, 365]]
    with fleet.store() as store, store.db.write():
        for column in ("received_at", "finished_at"):
            store.db.run(
                f"UPDATE crisper_attempt SET {column} = {column} - ? WHERE task_id IN (?, ?)",
                *(11 * DAY_MS, old, running),
            )
    first.kill()  # another one leads, and its pass begins
    fleet.worker("second")
    wait_for("the old one is forgotten", lambda: fleet.attempts(old) == [])
    assert fleet.attempts(young) == [(1, "succeeded")]
    assert fleet.attempts(running)[0][0] == 1
    assert fleet.errors() == []
