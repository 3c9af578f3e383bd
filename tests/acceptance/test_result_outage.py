"""An attempt whose body has ended does not stay running, whatever becomes of its result."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from tests.fleet import Fleet, wait_for
from tests.servers import PrivateRedis

#: Celery would try to store each result for twenty seconds.
IMPATIENT = {"result_backend_transport_options": {"retry_policy": {"max_retries": 1, "interval_start": 0}}}


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_a_result_backend_that_is_away_leaves_no_attempt_running(
    own_redis: PrivateRedis, tmp_path: Path, pool: str
) -> None:
    with closing(Fleet(tmp_path, backend=own_redis.url)) as fleet:
        worker = fleet.worker("one", "-P", pool, "-c", "3", FLEET_CONF=json.dumps(IMPATIENT))
        sent = [fleet.send("late", 1, "open"), fleet.send("early", 2, "open"), fleet.send("boom", 3, "open")]
        for one in sent:
            wait_for("it runs", lambda id=one.id: fleet.attempts(id) == [(1, "running")])
        own_redis.stop()
        (tmp_path / "open").touch()
        for one in sent:
            wait_for("it is over", lambda id=one.id: fleet.attempts(id) == [(1, "failed")], 40)
        own_redis.start()
        after = fleet.send("late", "after", 0)
        wait_for("it works as ever", lambda: fleet.attempts(after.id) == [(1, "succeeded")], 40)
        wait_for("nothing is left open", lambda: fleet.open_attempts() == 0)
        assert worker.process.poll() is None
        assert fleet.errors() == []


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_nor_does_a_body_that_ends_by_exiting(tmp_path: Path, pool: str) -> None:
    with closing(Fleet(tmp_path)) as fleet:
        worker = fleet.worker("one", "-P", pool)
        sent = fleet.send("dies_once", 1, "exit")
        wait_for("it runs again", lambda: fleet.attempts(sent.id) == [(1, "lost"), (2, "succeeded")], 30)
        assert worker.process.poll() is None
        assert fleet.errors() == []
