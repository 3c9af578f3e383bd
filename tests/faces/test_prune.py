"""`crisper prune`: what it counts, asks, forgets, and leaves on record of itself."""

from __future__ import annotations

from contextlib import closing

import pytest

from crisper.engine.pruner import DAY_MS
from crisper.store.open import open_store
from tests.faces.conftest import Run, read
from tests.faces.scene import Scene


def grow_old(scene: Scene, days: int) -> None:
    by = days * DAY_MS
    with closing(open_store(scene.url)) as store, store.db.write():
        store.db.run("UPDATE crisper_attempt SET received_at = received_at - ?", by)
        store.db.run("UPDATE crisper_attempt SET finished_at = finished_at - ?", by)
        store.db.run("UPDATE crisper_recovery SET done_at = done_at - ?", by)


def names(scene: Scene) -> set[str]:
    """Of the scene's tasks that are on record."""
    with closing(open_store(scene.url)) as store, store.db.write():
        known = {task_id for (task_id,) in store.db.rows("SELECT task_id FROM crisper_attempt")}
    return {name for name, task_id in scene.ids.items() if task_id in known}


def test_it_counts_what_it_would_forget_and_forgets_that(run: Run, scene: Scene) -> None:
    grow_old(scene, 91)
    before = names(scene)
    counted = read(run(scene.url, "prune", "--dry-run", "--json"))
    assert names(scene) == before
    days = {"days": 30.0, "lost_days": 90.0, "audit_days": 365.0}
    assert counted == {"dry_run": True, **days, "tasks": counted["tasks"]}
    assert counted["tasks"] > 0
    result = run(scene.url, "prune", "--yes", "--reason", "spring")
    assert result.exit_code == 0, result.stderr
    assert f"{counted['tasks']} tasks were forgotten that ended over 30 days ago." in result.stdout
    left = names(scene)
    assert len(before) - len(left) == counted["tasks"]
    assert {"quarantined", "held"} <= left
    with closing(open_store(scene.url)) as store, store.db.write():
        [(actor, data)] = store.db.rows("SELECT actor, data FROM crisper_event WHERE kind = 'pruned'")
    assert "@" in actor
    assert '"spring"' in data


def test_what_was_ever_lost_stays_longer_unless_it_is_asked_for(run: Run, scene: Scene) -> None:
    grow_old(scene, 31)
    fewer, all_of_them = (
        read(run(scene.url, "prune", "--dry-run", "--json", *days))["tasks"]
        for days in ((), ("--lost-days", "0", "--audit-days", "0"))
    )
    assert 0 < fewer < all_of_them
    run(scene.url, "prune", "--yes", "--days", "30", "--lost-days", "0", "--audit-days", "0")
    assert not {"discarded", "failed by policy"} & names(scene)


def test_nothing_is_old_yet(run: Run, scene: Scene) -> None:
    before = names(scene)
    assert (
        "0 tasks were forgotten that ended over 7 days ago."
        in run(scene.url, "prune", "--days", "7", "--yes").stdout
    )
    assert names(scene) == before


def test_without_a_terminal_it_wants_a_yes(run: Run, scene: Scene) -> None:
    result = run(scene.url, "prune")
    assert result.exit_code == 75
    assert "--yes" in result.stderr
    assert "--dry-run" in result.stderr


def test_less_than_a_day_is_warned_of(run: Run, scene: Scene) -> None:
    result = run(scene.url, "prune", "--days", "0", "--dry-run")
    assert result.exit_code == 0
    assert "refused only as long as it is on record" in result.stderr


def test_where_everything_is_kept_it_must_be_told_how_much(
    run: Run, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRISPER_RETENTION_DAYS", "0")
    result = run(scene.url, "prune", "--yes")
    assert result.exit_code == 2
    assert "--days" in result.stderr
