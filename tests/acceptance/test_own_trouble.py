"""An error in Crisper's own code: it costs no task anything, it is counted, and people are shown it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.acceptance.asking import crisper
from tests.fleet import ROOT, Fleet, wait_for

#: A policy that looks sound and raises when the claim is made.
APP = """
import os
from tests.fleet_app import make

class Moody(dict):
    def get(self, *args):
        raise ZeroDivisionError("in a policy")

app = make(os.environ)
app.tasks["tests.fleet_app.late"].crisper = Moody(on_lost="resend")
"""


def test_an_error_of_ours_costs_no_task_anything_and_is_counted_and_shown(tmp_path: Path) -> None:
    (tmp_path / "moody.py").write_text(APP)
    fleet = Fleet(tmp_path, lease=1.2, heartbeat_interval=0.2, sweep_interval=0.3)
    fleet.module = "moody"
    try:
        worker = fleet.worker("first", PYTHONPATH=f"{ROOT}:{tmp_path}")
        wait_for("it is on record", lambda: shown(fleet) == [0])
        # Longer than a lease: what has no claim is not put back for want of an answer.
        sent = [fleet.send("late", key, 2.0) for key in range(2)]
        recorded = fleet.send("noop", 7)
        assert [one.get(timeout=20) for one in sent] == [0, 1]
        assert recorded.get(timeout=20) == 7
        assert len(fleet.starts()) == 2
        assert "internal error while claiming" in worker.text()
        assert fleet.attempts(recorded.id) == [(1, "succeeded")]

        wait_for("the count in its heartbeat", lambda: shown(fleet) == [2])
        assert crisper(fleet, "status")["workers"]["errors"] == 2
        assert "2 errors in Crisper's own code" in told(fleet, "status")
        assert "first@test has counted 2 errors in Crisper's own code" in told(fleet, "workers")
    finally:
        fleet.close()


def shown(fleet: Fleet) -> list[int]:
    """Errors, of each live worker."""
    return [int(worker["errors"]) for worker in crisper(fleet, "workers")["workers"]]


def told(fleet: Fleet, command: str) -> str:
    """What a person reads, on one line."""
    line = [sys.executable, "-m", "crisper", "-A", "tests.fleet_app", command]
    done = subprocess.run(line, env=fleet.environment, capture_output=True, text=True, timeout=60, check=True)
    return " ".join(done.stdout.split())
