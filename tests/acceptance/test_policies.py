"""What becomes of a lost attempt that may have begun: by how it was acknowledged, and by policy."""

from __future__ import annotations

import os
import signal

import pytest

from tests.acceptance.asking import crisper, state_of
from tests.fleet import Fleet, wait_for

AGAIN = ("late", "early_resend")
FAILED = ("early", "late_fail")
HELD = ("early_hold", "late_hold")


def test_each_policy_decides_about_what_a_killed_worker_was_running(fleet: Fleet) -> None:
    first = fleet.worker("first", "-c", "6")
    sent = {name: fleet.send(name, name, "open") for name in (*AGAIN, *FAILED, *HELD)}
    wait_for("all running on record", lambda: _running(fleet) == 6)
    fleet.worker("second", "-c", "6")
    first.kill()
    for name in FAILED:
        with pytest.raises(Exception, match="was lost and is not run again") as raised:
            sent[name].get(timeout=5)
        assert type(raised.value).__name__ == "TaskLost"
    wait_for("decided", lambda: all(state_of(fleet, sent[name].id) == "held" for name in HELD))
    wait_for("running again", lambda: all(len(fleet.starts(sent[name].id)) == 2 for name in AGAIN))
    (fleet.folder / "open").touch()
    for name in AGAIN:
        assert sent[name].get(timeout=20) == name
    for name in (*FAILED, *HELD):
        assert len(fleet.starts(sent[name].id)) == 1
        assert crisper(fleet, "recover", sent[name].id)["tasks"][0]["outcome"] == "done"
    wait_for("recovered", lambda: all(state_of(fleet, one.id) == "succeeded" for one in sent.values()))
    assert {name: fleet.attempts(one.id) for name, one in sent.items()} == {
        name: [(1, "lost"), (2, "succeeded")] for name in sent
    }
    assert fleet.run_twice() == []
    assert fleet.errors() == []


def test_a_killed_pool_process_is_handled_before_celery_stores_a_failure(fleet: Fleet) -> None:
    only = fleet.worker("only", "-c", "8")
    sent = {name: fleet.send(name, name, "open") for name in (*AGAIN, *FAILED, *HELD)}
    wait_for("all running on record", lambda: _running(fleet) == 6)
    sent |= {how: fleet.send("dies_once", how, how) for how in ("_exit", "exit")}
    again = (*AGAIN, "_exit", "exit")
    for line in fleet.starts():
        if line.task_id not in (sent["_exit"].id, sent["exit"].id):
            os.kill(line.pid, signal.SIGKILL)
    seen = set()

    def running_again() -> bool:
        seen.update((name, sent[name].state) for name in again)
        return all(len(fleet.starts(sent[name].id)) == 2 for name in again)

    wait_for("running again", running_again)
    (fleet.folder / "open").touch()
    wait_for("done", lambda: running_again() and all(sent[name].state == "SUCCESS" for name in again))
    assert {state for _, state in seen} <= {"PENDING", "SUCCESS"}
    for name in FAILED:
        with pytest.raises(Exception, match="was lost and is not run again"):
            sent[name].get(timeout=10)
    wait_for("held", lambda: all(state_of(fleet, sent[name].id) == "held" for name in HELD))
    wait_for("no attempt left open", lambda: fleet.open_attempts() == 0)
    assert {name: fleet.attempts(sent[name].id) for name in again} == {
        name: [(1, "lost"), (2, "succeeded")] for name in again
    }
    assert only.process.poll() is None
    assert fleet.run_twice() == []
    assert fleet.errors() == []


def _running(fleet: Fleet) -> int:
    return int(str(fleet.rows("SELECT count(*) FROM crisper_attempt WHERE state = 'running'")[0][0]))
