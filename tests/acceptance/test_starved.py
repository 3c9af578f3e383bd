"""A worker whose processes get no CPU, no memory, or no time at all; as by a container's limits."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import broker_urls
from tests.acceptance.harm import Steady, harm_to
from tests.acceptance.site import LEASE, QUICK, Site, site
from tests.acceptance.watching import how_lost, is_running
from tests.faults.groups import Group
from tests.faults.postgres import FaultyPostgres
from tests.fleet import wait_for
from tests.left_out import needs

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with (
        needs("postgres"),
        FaultyPostgres() as postgres,
        site(tmp_path, postgres, **broker_urls("redis", request), **QUICK) as made,
    ):
        yield made


def test_a_worker_frozen_for_two_leases_is_fenced_and_what_it_ran_ends_once(place: Site) -> None:
    """The whole tree, recorder and pool too: as a paused container, or a machine that is moved."""
    fleet = place.fleet
    with needs("control groups"), Group("freezer") as group:
        frozen = fleet.worker("frozen")
        group.take(frozen)
        late = [fleet.send("late", n, "open").id for n in range(2)]
        wait_for("on record", lambda: all(fleet.attempts(id) == [(1, "running")] for id in late))
        fleet.worker("other")
        frozen_pool = frozen.pool()
        with group.frozen():
            wait_for("it is declared", lambda: fleet.incarnations()["frozen"] == ["lost"], 3 * LEASE)
            wait_for("they run again", lambda: len(fleet.starts()) == 4)
        wait_for("it goes on as somebody new", lambda: fleet.incarnations()["frozen"] == ["lost", "alive"])
        first = {line.pid for line in fleet.starts()} & set(frozen_pool)
        wait_for("what is fenced is stopped", lambda: not any(map(is_running, first)))
        (fleet.folder / "open").touch()
        wait_for("all ended", lambda: {x.task_id for x in fleet.ends()} == set(late))
        wait_for("no attempt left open", lambda: fleet.open_attempts() == 0)
        assert how_lost(fleet, "frozen") == ["silence"]
        assert fleet.run_twice() == []
        for id in late:
            assert fleet.attempts(id) == [(1, "lost"), (2, "succeeded")]
        assert fleet.errors() == []


@pytest.mark.slow
def test_a_worker_with_a_twentieth_of_a_core_is_not_declared(place: Site) -> None:
    fleet = place.fleet
    with needs("control groups"), Group("cpu") as group:
        starved, _ = place.workers(2)
        with Steady(fleet, 5) as steady:
            wait_for("the stream runs", lambda: len(fleet.ends()) > 5)
            group.set("cpu.cfs_period_us", "100000")
            group.set("cpu.cfs_quota_us", "5000")
            group.take(starved)
            time.sleep(4 * LEASE)
            group.set("cpu.cfs_quota_us", "-1")
        harm = harm_to(fleet, steady.sent)
        print(f"a twentieth of a core for four leases: {len(steady.sent)} tasks; {harm}")
        assert not harm
        assert int(group.get("cpu.stat").split("nr_throttled ")[1].split()[0]) > 10


def test_what_is_killed_for_its_memory_is_quarantined_at_its_budget_and_takes_nobody_along(
    place: Site,
) -> None:
    fleet = place.fleet
    with needs("control groups"), Group("memory") as group:
        group.set("memory.limit_in_bytes", "600M")
        fleet.worker("small", inside=group.inside())
        glutton = fleet.send("eats", "glutton", 2000).id
        innocent = [fleet.send("late", n, 0.2).id for n in range(6)]
        wait_for(
            "quarantined", lambda: fleet.recoveries(glutton)[-1:] == [(4, "quarantined", "quarantine")], 60
        )
        wait_for("the innocent ended", lambda: {x.task_id for x in fleet.ends()} >= set(innocent))
        wait_for("no attempt left open", lambda: fleet.open_attempts() == 0)
        assert len(fleet.starts(glutton)) == 4  # its budget of three losses, and the first
        assert int(group.get("memory.oom_control").split("oom_kill ")[1]) >= 4
        [(reason,)] = fleet.rows(
            "SELECT reason FROM crisper_recovery WHERE task_id = ? AND state = 'quarantined'", glutton
        )
        told = r"killed by the kernel for memory \((\d+ MiB )?of 600 MiB\), lost while running 4 times, .*"
        assert re.fullmatch(told, reason), reason
        assert fleet.incarnations() == {"small": ["alive"]}
        assert fleet.run_twice() == []
