"""A real body that hangs is named with the line where it does, and is ended where that is wanted."""

from __future__ import annotations

import os
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from crisper.engine.survey import Survey
from tests.acceptance.test_wedged import events
from tests.acceptance.watching import is_running
from tests.fleet import Fleet, wait_for

QUICK = {"heartbeat_interval": 0.3, "lease": 2, "sweep_interval": 0.3, "stall_after": 2}


def hung(fleet: Fleet, task_id: str) -> dict[str, Any]:
    """What it is named by, once it runs."""
    wait_for("it runs", lambda: fleet.starts(task_id))
    told: dict[str, Any] = wait_for("it is named", lambda: events(fleet, "stalled"), 20)[0]
    return told


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_a_body_that_hangs_is_named_with_the_line_where_it_does(tmp_path: Path, pool: str) -> None:
    with closing(Fleet(tmp_path, **QUICK)) as fleet:
        fleet.worker("first", "-P", pool, "-c", "2")
        sent = fleet.send("late", "hangs", "open")
        told = hung(fleet, sent.id)
        assert "tests/fleet_app.py" in told["sentence"], told
        assert "in spend" in told["stack"]
        [seconds] = re.findall(r"^no progress for ([\d.]+) s", told["sentence"])
        assert float(seconds) >= QUICK["stall_after"]
        assert told["process_state"] in "SR"
        with closing(Survey(fleet.registry_url)) as survey:
            [ails] = wait_for("it is shown", lambda: survey.workers()["workers"][0]["ails"])
            assert (ails["kind"], ails["task_id"], ails["attempt"]) == ("stalled", sent.id, 1)
            kinds = [one["kind"] for one in survey.task(sent.id)["events"]]
            assert "stalled" in kinds
            (tmp_path / "open").touch()  # it was only slow: nobody harmed it
            wait_for("it ends", lambda: fleet.attempts(sent.id) == [(1, "succeeded")])
            wait_for("that is shown", lambda: not survey.workers()["workers"][0]["ails"])
        assert fleet.errors() == []


@pytest.mark.parametrize("pool", ["threads", "gevent", "solo"])
def test_so_is_one_that_keeps_the_interpreter_lock_while_it_keeps_it(tmp_path: Path, pool: str) -> None:
    """Nobody in its process can say anything; its recorder can."""
    with closing(Fleet(tmp_path, **{**QUICK, "wedged_after": 60})) as fleet:
        fleet.worker("first", "-P", pool, "-c", "1")
        os.mkfifo(tmp_path / "pipe")
        sent = fleet.send("lock_until", "told", "pipe")
        told = hung(fleet, sent.id)
        assert fleet.ends(sent.id) == []
        assert "a body keeps the interpreter lock" in told["sentence"]
        assert "tests/fleet_app.py" in told["sentence"], told
        assert "in lock_until" in told["stack"]
        (tmp_path / "pipe").write_bytes(b".")
        wait_for("it ends", lambda: fleet.attempts(sent.id) == [(1, "succeeded")], 40)
        assert len(events(fleet, "stalled")) == 1
        assert fleet.errors() == []


def test_one_that_says_how_far_it_is_is_not_stalled(tmp_path: Path) -> None:
    with closing(Fleet(tmp_path, **QUICK)) as fleet:
        fleet.worker("first", "-c", "1")
        sent = fleet.send("advances", 1, 5.0)
        wait_for("it ends", lambda: fleet.attempts(sent.id) == [(1, "succeeded")], 30)
        assert events(fleet, "stalled") == []


def test_where_it_is_wanted_a_stalled_attempt_is_stopped(tmp_path: Path) -> None:
    with closing(Fleet(tmp_path, on_stalled="stop", **QUICK)) as fleet:
        fleet.worker("first", "-c", "3")
        sent, tidy = fleet.send("early", "hangs", "never"), fleet.send("gives_in", "hangs")
        neighbour = fleet.send("advances", 1, 6.0)
        wait_for("it is stopped", lambda: fleet.attempts(sent.id) == [(1, "revoked")])
        [start] = fleet.starts(sent.id)
        assert not is_running(start.pid)
        [(why,)] = fleet.rows("SELECT reason FROM crisper_attempt WHERE task_id = ?", sent.id)
        assert str(why).startswith("stopped by crisper: stalled: no progress for")
        wait_for("it has tidied up", lambda: fleet.attempts(tidy.id) == [(1, "succeeded")])
        assert tidy.get(timeout=10) == "tidied up"
        wait_for("its neighbour ends", lambda: fleet.attempts(neighbour.id) == [(1, "succeeded")])
        assert fleet.errors() == []


def test_so_is_one_greenlet_alone(tmp_path: Path) -> None:
    with closing(Fleet(tmp_path, on_stalled="stop", **QUICK)) as fleet:
        worker = fleet.worker("first", "-P", "gevent", "-c", "4")
        sent, tidy = fleet.send("early", "hangs", "never"), fleet.send("gives_in", "hangs")
        late, neighbour = fleet.send("late", "hangs", "never"), fleet.send("advances", 1, 6.0)
        for one in (sent, late):
            wait_for("it is stopped", lambda id=one.id: fleet.attempts(id) == [(1, "revoked")], 40)
            assert fleet.ends(one.id) == []
        wait_for("it has tidied up", lambda: fleet.attempts(tidy.id) == [(1, "succeeded")])
        assert tidy.get(timeout=10) == "tidied up"
        wait_for("its neighbour ends", lambda: fleet.attempts(neighbour.id) == [(1, "succeeded")])
        assert worker.process.poll() is None
        assert fleet.errors() == []


def test_of_a_thread_only_a_body_that_asks_for_it(tmp_path: Path) -> None:
    with closing(Fleet(tmp_path, on_stalled="stop", **QUICK)) as fleet:
        fleet.worker("first", "-P", "threads", "-c", "3")
        sent, tidy = fleet.send("late", "hangs", "open"), fleet.send("gives_in", "hangs")
        neighbour = fleet.send("advances", 1, 6.0)
        wait_for("it has tidied up", lambda: fleet.attempts(tidy.id) == [(1, "succeeded")], 40)
        assert tidy.get(timeout=10) == "tidied up"
        wait_for("both are named", lambda: len(events(fleet, "stalled")) == 2)
        told = {one["action"]: one["cannot_stop"] for one in events(fleet, "stalled")}
        assert told["stop"] == ""
        assert "does not ask for an exception" in told["warn"]
        wait_for("its neighbour ends", lambda: fleet.attempts(neighbour.id) == [(1, "succeeded")])
        assert fleet.attempts(sent.id) == [(1, "running")]
        (tmp_path / "open").touch()
        wait_for("it ends by itself", lambda: fleet.attempts(sent.id) == [(1, "succeeded")])
        assert fleet.errors() == []


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
@pytest.mark.parametrize("task", ["early", "late"])
def test_or_ended_and_sent_again_until_its_budget_is_spent(tmp_path: Path, task: str, pool: str) -> None:
    settings = {**QUICK, "on_stalled": "stop_and_resend", "loss_budget": 1}
    with closing(Fleet(tmp_path, **settings)) as fleet:
        fleet.worker("first", "-P", pool, "-c", "1")
        sent = fleet.send(task, "hangs", "open")
        wait_for("it runs again", lambda: len(fleet.starts(sent.id)) == 2, 30)
        brought_back = {"early": "resend", "late": "await_redelivery"}  # its worker gives that one back
        assert fleet.recoveries(sent.id)[0][1:] == ("done", brought_back[task])
        (tmp_path / "open").touch()
        wait_for("it ends", lambda: fleet.attempts(sent.id) == [(1, "lost"), (2, "succeeded")])
        assert fleet.errors() == []
