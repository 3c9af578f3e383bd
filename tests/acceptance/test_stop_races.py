"""Orders that arrive when the attempt has just ended, or its process runs the next: the bench, briefly."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from bench.stop_races import race, task_for
from tests.fleet import Fleet, wait_for


@pytest.mark.parametrize("pool", ["prefork", "gevent", "threads"])
@pytest.mark.parametrize("races", [24, pytest.param(400, marks=[pytest.mark.slow, pytest.mark.timeout(300)])])
def test_no_other_task_is_harmed_by_an_order_to_stop(
    redis_url: str, tmp_path: Path, races: int, pool: str
) -> None:
    quick = {"sweep_interval": 0.05, "heartbeat_interval": 0.3, "lease": 3}
    queue = tmp_path.name
    fleet = Fleet(tmp_path, broker=redis_url, backend=redis_url, **quick)
    fleet.app.conf.task_default_queue = queue
    with closing(fleet):
        fleet.worker("racer", "-P", pool, "-c", "4", "-Q", queue)
        told = race(fleet, races, task_for(pool))
        assert told.harmed == []
        # A thread's body ends by the exception that it asked for; before it begins, it is revoked anywhere.
        assert set(told.ordered) <= {"revoked", "succeeded", *(["failed"] if pool == "threads" else [])}
        wait_for("nothing is left", lambda: fleet.open_attempts() == 0)
        assert fleet.errors() == []
