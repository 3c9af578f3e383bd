"""How far a task is stands on record while it runs, in every pool; it costs nothing but the heartbeats."""

from __future__ import annotations

from pathlib import Path

import pytest

from crisper.engine.survey import Survey
from tests.fleet import Fleet, wait_for


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_how_far_a_running_task_is_stands_on_record_in_every_pool(pool: str, tmp_path: Path) -> None:
    if pool == "gevent":
        pytest.importorskip("gevent")
    fleet = Fleet(tmp_path, heartbeat_interval=0.5, lease=5)
    try:
        fleet.worker("one", "-P", pool)
        task = fleet.send("counts", "a", "open")

        def told() -> tuple[object, ...]:
            survey = Survey(fleet.registry_url)
            try:
                story = survey.task(task.id)
            finally:
                survey.close()
            said = story["attempts"][0]["progress"] if story else None
            return (said["done"], said["total"], said["note"]) if said else ()

        wait_for("the last of ten thousand words", lambda: told() == (20_000, 20_000, "waits for open"))
        (tmp_path / "open").touch()
        wait_for("Celery's own word", lambda: told() == (3, 7, None))
        assert task.info == {"current": 3, "total": 7}
        (tmp_path / "open-again").touch()
        assert task.get(timeout=20) == ["a", "registry"]
        wait_for("the end", lambda: fleet.attempts(task.id) == [(1, "succeeded")])
        assert told() == ()
        assert fleet.errors() == []
    finally:
        fleet.close()
