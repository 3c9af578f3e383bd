"""Five workers that held a thousand tasks die and start again at the same moment: one recovery each."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import broker_urls
from tests.acceptance.harm import harm_to
from tests.acceptance.random_kills import Kill
from tests.acceptance.site import QUICK, Site, site
from tests.acceptance.watching import messages_left
from tests.faults.postgres import FaultyPostgres
from tests.fleet import wait_for
from tests.left_out import needs

WORKERS, TASKS = 5, 1000
POOL = ("-P", "threads", "-c", "1")
#: The deaths are proven on the host. A machine that starts five workers at once may keep one waiting for
#: longer than the lease of the other tests, and whoever is fenced for that loses attempts too.
PATIENT = QUICK | {"lease": 20}


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with (
        needs("postgres"),
        FaultyPostgres() as postgres,
        site(tmp_path, postgres, **broker_urls("redis", request), **PATIENT) as made,
    ):
        yield made


@pytest.mark.timeout(180)
def test_a_thousand_stale_attempts_are_recovered_once_each_when_five_workers_restart_at_once(
    place: Site,
) -> None:
    fleet = place.fleet
    first = [fleet.worker(f"w{n}", *POOL, FLEET_PREFETCH="200", wait=False) for n in range(WORKERS)]
    for worker in first:
        worker.ready(60)
    sent = {fleet.send("late", n, "open").id: time.time() for n in range(TASKS)}
    wait_for("a thousand are claimed", lambda: fleet.open_attempts() == TASKS, 60)
    recorders, parents = [worker.recorder() for worker in first], [worker.pid for worker in first]
    kill = Kill(time.time(), "both", frozenset(parents))
    for pid in [*recorders, *parents]:
        os.kill(pid, signal.SIGKILL)
    for worker in first:
        worker.process.wait(10)
    began = time.monotonic()
    (fleet.folder / "open").touch()
    for n in range(WORKERS):
        fleet.worker(f"w{n}", *POOL, wait=False)
    most = 0
    lost = "SELECT count(*) FROM crisper_recovery WHERE state = 'done'"
    while fleet.rows(lost)[0][0] < TASKS:
        most = max(most, messages_left(fleet)[0])
        assert time.monotonic() - began < 60, "not recovered within a minute"
        time.sleep(0.05)
    recovered = time.monotonic() - began
    harm = harm_to(fleet, sent, [kill])
    over = time.monotonic() - began
    print(
        f"{TASKS} stale attempts, {WORKERS} workers restarted at once: all recovered after {recovered:.1f} s,"
        f" all over after {over:.1f} s; at most {most} messages in the queue; {harm}"
    )
    assert not harm
    _once_each(place)
    _right_times(place, kill.at)
    assert most <= TASKS


def _once_each(place: Site) -> None:
    recoveries = place.fleet.rows("SELECT number, state, cause, evidence FROM crisper_recovery")
    assert [again for again in recoveries if again[0] != 1] == []
    assert Counter(state for _, state, _, _ in recoveries) == {"done": TASKS}
    attempts = place.fleet.rows("SELECT number, state FROM crisper_attempt WHERE state <> 'released'")
    states = Counter((str(state), int(number) > 1) for number, state in attempts)
    assert states == {("lost", False): TASKS, ("succeeded", True): TASKS}
    recovered = place.fleet.rows("SELECT count(*) FROM crisper_event WHERE kind = 'recovered'")[0][0]
    assert recovered <= TASKS  # the gate may see a message that was handed back before its courier is done


def _right_times(place: Site, killed_at: float) -> None:
    """Each stage after the one before it; the loss after the kill, and the body that ran before it."""
    rows = place.fleet.rows(
        "SELECT a.received_at, a.started_at, a.finished_at, r.created_at, r.decided_at, r.done_at,"
        " b.received_at"
        " FROM crisper_attempt a"
        " JOIN crisper_recovery r ON r.task_id = a.task_id AND r.number = a.number"
        " JOIN crisper_attempt b ON b.task_id = a.task_id AND b.number = 2"
        " WHERE a.number = 1"
    )
    begun = 0
    for received, started, lost, created, decided, done, again in rows:
        assert received < killed_at * 1000 <= lost <= created
        assert created <= (decided or created) <= done
        assert lost <= again
        if started is not None:
            begun += 1
            assert received <= started < killed_at * 1000
    assert begun == WORKERS
