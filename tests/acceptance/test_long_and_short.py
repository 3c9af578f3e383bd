"""Tasks of milliseconds by the thousand, and one of ten minutes under a lease of two seconds."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import broker_urls
from tests.acceptance.harm import harm_to
from tests.acceptance.site import Site, site
from tests.acceptance.watching import losses
from tests.faults.postgres import FaultyPostgres
from tests.fleet import wait_for
from tests.left_out import needs

LEASE = 2.0


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    settings = {"lease": LEASE, "heartbeat_interval": 0.5, "sweep_interval": 0.2}
    with (
        needs("postgres"),
        FaultyPostgres() as postgres,
        site(tmp_path, postgres, **broker_urls("redis", request), **settings) as made,
    ):
        yield made


#: Of each hundred tasks: which, and how they end.
MIX = {
    "late": (45, "succeeded"),
    "early": (45, "succeeded"),
    "boom": (6, "failed"),
    "ignored": (4, "succeeded"),
}


def short_tasks(place: Site, count: int) -> float:
    """So many of 1 to 50 ms, all judged; seconds until all were over."""
    fleet = place.fleet
    place.workers(2, "-c", "4")
    kinds = [name for name, (share, _) in MIX.items() for _ in range(share)]
    began = time.monotonic()
    sent = {}
    for n in range(count):
        name = kinds[n * 37 % 100]
        sent[fleet.send(name, n, 0.001 + n * 13 % 50 / 1000).id] = MIX[name][1]
    ended = "SELECT count(*) FROM crisper_attempt WHERE state NOT IN ('claimed', 'running')"
    wait_for("all are over", lambda: fleet.rows(ended)[0][0] >= count, 300)
    seconds = time.monotonic() - began
    rows = fleet.rows("SELECT task_id, number, state FROM crisper_attempt")
    assert {str(id): str(state) for id, _, state in rows} == sent
    assert Counter(int(number) for _, number, _ in rows) == {1: count}
    assert Counter(line.task_id for line in fleet.starts()) == Counter(list(sent))
    assert losses(fleet) == 0
    assert fleet.open_attempts() == 0
    assert fleet.errors() == []
    return seconds


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_ten_thousand_tasks_of_milliseconds_each_end_in_the_right_state(place: Site) -> None:
    seconds = short_tasks(place, 10_000)
    print(f"10000 tasks of 1 to 50 ms in {seconds:.0f} s: each on record once, in the right state")


def test_four_hundred_tasks_of_milliseconds_each_end_in_the_right_state(place: Site) -> None:
    short_tasks(place, 400)


def cpu_of(pid: int) -> float:
    """Seconds of CPU that the process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def long_task(place: Site, seconds: float, window: float) -> None:
    """One task, and what its worker's heartbeats cost at its beginning and at its end."""
    fleet = place.fleet
    place.workers(2)
    sent = fleet.send("late", "long", seconds)
    wait_for("on record", lambda: fleet.attempts(sent.id) == [(1, "running")])
    [line] = fleet.starts(sent.id)
    began = time.monotonic()
    recorders = [worker.recorder() for worker in fleet.workers]

    def cost() -> tuple[float, float]:
        """CPU of both recorders, and heartbeats, a second."""
        beats = "SELECT sum(counter) FROM crisper_incarnation"
        cpu, counter, at = sum(map(cpu_of, recorders)), int(fleet.rows(beats)[0][0]), time.monotonic()
        time.sleep(window)
        took = time.monotonic() - at
        return (sum(map(cpu_of, recorders)) - cpu) / took, (int(fleet.rows(beats)[0][0]) - counter) / took

    first = cost()
    time.sleep(max(0.0, seconds - window - 1 - (time.monotonic() - began)))
    last = cost()
    assert fleet.attempts(sent.id) == [(1, "running")]
    harm = harm_to(fleet, {sent.id})
    print(f"a task of {seconds:.0f} s under a lease of {LEASE:g} s; {harm}")
    for when, (cpu, beats) in {"beginning": first, "end": last}.items():
        print(f"  at its {when}: both recorders {cpu * 1000:.1f} ms of CPU, {beats:.1f} heartbeats a second")
    assert not harm
    assert [x.pid for x in fleet.ends(sent.id)] == [line.pid]
    assert last[1] == pytest.approx(first[1], rel=0.25)
    assert last[0] < 2 * first[0] + 0.01


@pytest.mark.slow
@pytest.mark.timeout(720)
def test_a_task_of_ten_minutes_is_never_declared_and_its_heartbeats_cost_no_more(place: Site) -> None:
    long_task(place, 600, 30)
