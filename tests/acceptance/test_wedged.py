"""A real parent whose loop is kept from turning is named, with its stack; one that rightly stands is not."""

from __future__ import annotations

import json
import signal
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from crisper.engine.survey import Survey
from tests.fleet import Fleet, wait_for

QUICK = {"heartbeat_interval": 0.3, "lease": 2, "sweep_interval": 0.3, "wedged_after": 3}


def events(fleet: Fleet, kind: str) -> list[dict[str, Any]]:
    rows = fleet.rows("SELECT data FROM crisper_event WHERE kind = ? ORDER BY id", kind)
    return [json.loads(str(data)) for (data,) in rows]


def wedge(fleet: Fleet, until: str, *, locked: bool = False) -> None:
    wait_for("it takes commands", lambda: fleet.app.control.ping(timeout=0.5))
    fleet.app.control.broadcast("wedge", arguments={"until": until, "locked": locked})


def named(fleet: Fleet, pool: str, *, locked: bool) -> None:
    """Until it goes on again."""
    fleet.worker("first", "-P", pool, "-c", "1", "-Q", fleet.folder.name)
    wedge(fleet, "open", locked=locked)
    [told] = wait_for("it is named", lambda: events(fleet, "wedged"), 15)
    assert "tests/fleet_app.py" in told["sentence"], told
    assert "in wedge" in told["stack"]
    with closing(Survey(fleet.registry_url)) as survey:
        [ails] = wait_for("it is shown", lambda: survey.workers()["workers"][0]["ails"])
        assert ails["kind"] == "wedged"
        assert survey.status()["workers"]["wedged"] == 1
        (fleet.folder / "open").touch()
        wait_for("it goes on", lambda: events(fleet, "went_on"), 15)
        wait_for("that is shown", lambda: not survey.workers()["workers"][0]["ails"])
    assert fleet.errors() == []


def test_a_wedged_parent_is_named_with_the_line_where_it_stands(redis_url: str, tmp_path: Path) -> None:
    with closing(Fleet(tmp_path, broker=redis_url, backend=redis_url, **QUICK)) as fleet:
        named(fleet, "prefork", locked=False)


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_so_is_one_that_holds_the_interpreter_lock_as_well(redis_url: str, tmp_path: Path, pool: str) -> None:
    """No thread of its own can speak for it."""
    with closing(Fleet(tmp_path, broker=redis_url, backend=redis_url, **QUICK)) as fleet:
        named(fleet, pool, locked=True)


def test_a_wedged_parent_is_ended_where_that_is_wanted_and_what_it_ran_comes_back(
    redis_url: str, tmp_path: Path
) -> None:
    settings = {**QUICK, "on_wedged": "exit"}
    with closing(Fleet(tmp_path, broker=redis_url, backend=redis_url, **settings)) as fleet:
        worker = fleet.worker("first", "-c", "1", "-Q", tmp_path.name)
        sent = fleet.send("late", "running", "never", queue=tmp_path.name)
        wait_for("it runs", lambda: fleet.attempts(sent.id) == [(1, "running")])
        wedge(fleet, "never")
        assert worker.process.wait(25) == -signal.SIGKILL  # it does not heed SIGTERM
        wait_for("its death is on record", lambda: fleet.attempts(sent.id) == [(1, "lost")])
        told = [one["action"] for one in events(fleet, "wedged_exit")]
        assert told == ["ended by SIGTERM", "ended by SIGKILL"]


def test_a_loop_that_rightly_stands_still_is_not_wedged(tmp_path: Path) -> None:
    """A solo task, and bodies that hold the interpreter lock, for longer than a wedged loop's time."""
    with closing(Fleet(tmp_path, **QUICK)) as fleet:
        pools = {"solo": ("lock", "late"), "threads": ("lock", "lock")}
        workers = [fleet.worker(pool, "-P", pool, "-c", "2", "-Q", pool, wait=False) for pool in pools]
        for worker in workers:
            worker.ready()
        sent = [fleet.send(task, pool, 4.5, queue=pool) for pool, tasks in pools.items() for task in tasks]
        for one in sent:
            assert one.get(timeout=40) in (None, "solo")
        assert events(fleet, "wedged") == []
        assert fleet.errors() == []


@pytest.mark.slow
def test_nor_is_one_whose_broker_is_away(own_redis: Any, tmp_path: Path) -> None:
    with closing(Fleet(tmp_path, broker=own_redis.url, backend=own_redis.url, **QUICK)) as fleet:
        worker = fleet.worker("first", "-c", "1")
        own_redis.stop()
        wait_for("it has noticed", lambda: "Connection to broker lost" in worker.text())
        time.sleep(8)  # the outage itself
        own_redis.start()
        sent = fleet.send("late", "after", 0)
        wait_for("it goes on", lambda: fleet.ends(sent.id), 30)
        assert events(fleet, "wedged") == []
