"""Ten workers at once: deployed into a crowd, a hundred tasks in one instant, restarted one after another."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.acceptance.conftest import broker_urls
from tests.acceptance.harm import Steady, harm_to, waits
from tests.acceptance.rolling import roll
from tests.acceptance.site import Site, site
from tests.faults.postgres import FaultyPostgres
from tests.fleet import Fleet, wait_for
from tests.left_out import needs

pytestmark = pytest.mark.timeout(180)

WORKERS = 10
#: Twenty processes start at once on what may be two cores: nothing here waits for a lease.
SETTINGS = {"lease": 10, "heartbeat_interval": 1, "sweep_interval": 0.5}
POOL = ("-P", "threads", "-c", "10")


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Nobody runs there yet."""
    with (
        needs("postgres"),
        FaultyPostgres(max_connections="60") as postgres,
        site(tmp_path_factory.mktemp("ten"), postgres, **broker_urls("redis", request), **SETTINGS) as made,
    ):
        yield made


def in_one_instant(fleet: Fleet, count: int, queue: str = "celery") -> tuple[dict[str, float], list[float]]:
    """So many tasks with the same ETA; when each began, in seconds after it."""
    eta = datetime.now(UTC) + timedelta(seconds=2)
    options: dict[str, Any] = {"eta": eta, "queue": queue}
    sent = {fleet.send("late", n, 0.3, **options).id: time.time() for n in range(count)}
    wait_for("all began", lambda: {x.task_id for x in fleet.starts()} >= set(sent))
    return sent, sorted(x.at - eta.timestamp() for x in fleet.starts() if x.task_id in sent)


def test_ten_workers_deployed_while_others_have_every_connection_lose_nothing(place: Site) -> None:
    fleet = place.fleet
    with place.postgres.crowded() as taken, Steady(fleet, 20) as steady:
        began = time.monotonic()
        workers = [fleet.worker(f"w{n}", *POOL, wait=False) for n in range(WORKERS)]
        for worker in workers:
            worker.ready(60)
        wait_for("tasks run", lambda: len(fleet.ends()) > 20)
        ready = time.monotonic() - began
        assert fleet.incarnations() == {}
    wait_for("all on record", lambda: len(fleet.incarnations()) == WORKERS)
    place.sent |= steady.sent
    harm = harm_to(fleet, place.sent)
    connections = place.postgres.connections()
    print(
        f"{WORKERS} workers deployed with {taken} of 60 connections taken: working in {ready:.1f} s,"
        f" {len(steady.sent)} tasks, {connections} connections afterwards; {harm}"
    )
    assert not harm
    assert connections == 2 * WORKERS


def test_a_hundred_tasks_of_one_instant_run_once_each_on_ten_workers(place: Site) -> None:
    sent, late = in_one_instant(place.fleet, 100)
    place.sent |= sent
    harm = harm_to(place.fleet, place.sent)
    print(f"100 tasks at once on ten workers: {late[49]:.2f}/{late[-1]:.2f} s late; {harm}")
    assert not harm


def test_ten_workers_restarted_one_after_another_under_load_harm_nothing(place: Site) -> None:
    rolled = roll(place, 12.0, pool=POOL)
    print(rolled)
    assert not rolled.harm
    assert rolled.restarts >= 2
    assert rolled.most_connections <= 2 * (WORKERS + 1)


def test_a_hundred_tasks_of_one_instant_run_once_each_on_one_worker(place: Site) -> None:
    place.fleet.worker("alone", "-P", "threads", "-c", "100", "-Q", "alone")
    sent, late = in_one_instant(place.fleet, 100, "alone")
    place.sent |= sent
    harm = harm_to(place.fleet, place.sent)
    print(f"100 tasks at once on one worker: {late[49]:.2f}/{late[-1]:.2f} s late; {harm}")
    assert not harm
    assert waits(place.fleet, sent).tasks == 100
