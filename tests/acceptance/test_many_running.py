"""Tasks that run at once on gevent workers, all killed and started again: the benchmark, briefly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.postgres import FaultyPostgres
from tests.left_out import needs
from tests.servers import PrivateRedis

BENCH = Path(__file__).parents[2] / "bench" / "ten_thousand_running.py"
BRIEFLY = ("--workers", "3", "--each", "40", "--lease", "12")


def run_again(*how: str) -> None:
    with needs("postgres"):
        FaultyPostgres()
    with needs("redis"):
        PrivateRedis()
    done = subprocess.run([sys.executable, BENCH, *BRIEFLY, *how], text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(240)
def test_all_that_ran_on_workers_that_died_at_once_runs_again_by_proof_on_the_host() -> None:
    run_again()


@pytest.mark.timeout(240)
def test_and_by_silence_where_nobody_can_see_that_they_are_gone(own_pids: list[str]) -> None:
    run_again("--no-proof")
