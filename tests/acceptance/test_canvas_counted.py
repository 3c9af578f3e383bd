"""A chord counts a member whose result was stored, although its worker died before it could count it."""

from __future__ import annotations

from pathlib import Path

import pytest
from celery import chord
from celery.backends.redis import RedisBackend

from tests.acceptance.canvas_app import NAME, draw_on, let_go_of_results
from tests.acceptance.conftest import broker_urls
from tests.fleet import Fleet, wait_for


@pytest.mark.parametrize("fails", [False, True])
def test_a_chord_completes_where_a_worker_died_between_the_result_and_its_count(
    request: pytest.FixtureRequest, tmp_path: Path, fails: bool
) -> None:
    """Run again it would have been counted; but what has ended does not run again."""
    fleet = Fleet(tmp_path, **broker_urls("redis", request))
    fleet.module = "tests.acceptance.canvas_app"
    draw_on(fleet.app, tmp_path)
    (tmp_path / "die-uncounted").touch()
    try:
        first = fleet.worker("first", "-P", "threads", "-c", "1", FLEET_PREFETCH="1")
        waits, add_up = (fleet.app.tasks[NAME + name] for name in ("late_waits", "late_add_up"))
        boom = fleet.app.tasks["tests.fleet_app.boom"]
        member = boom.s(1) if fails else waits.s(1, "")
        sent = chord([member, waits.s(2, "")], add_up.s()).apply_async()
        first.process.wait(20)
        [stored] = [line.task_id for line in fleet.starts()]
        fleet.worker("second", "-P", "threads", "-c", "2")
        if fails:
            with pytest.raises(Exception, match="boom 1"):
                sent.get(timeout=20)
        else:
            assert sent.get(timeout=20) == 3
        wait_for("nothing open", lambda: fleet.open_attempts() == 0)
        assert fleet.recoveries(stored) == [(1, "done", "settled")]
        assert len(fleet.starts(stored)) == 1
        assert fleet.errors() == []
    finally:
        let_go_of_results(fleet.app)
        fleet.close()


@pytest.mark.skipif(
    not hasattr(RedisBackend, "_chord_publish_claim_expires"), reason="Celery before 5.7 claims no body"
)
def test_a_chord_completes_where_a_worker_died_with_its_body_in_its_hands(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """All are counted; Celery lets the dead process' claim on sending the body expire, and nobody looks."""
    fleet = Fleet(tmp_path, **broker_urls("redis", request))
    fleet.module = "tests.acceptance.canvas_app"
    draw_on(fleet.app, tmp_path)
    (tmp_path / "die-with-the-body").touch()
    try:
        first = fleet.worker("first", "-P", "threads", "-c", "1", FLEET_PREFETCH="1")
        waits, add_up = (fleet.app.tasks[NAME + name] for name in ("late_waits", "late_add_up"))
        sent = chord([waits.s(1, ""), waits.s(2, "")], add_up.s()).apply_async()
        first.process.wait(20)
        fleet.worker("second", "-P", "threads", "-c", "2")
        assert sent.get(timeout=40) == 3
        wait_for("nothing open", lambda: fleet.open_attempts() == 0)
        assert fleet.run_twice() == []
        assert fleet.errors() == []
    finally:
        let_go_of_results(fleet.app)
        fleet.close()
