"""PostgreSQL is away, or hangs: tasks wait for it or run on, and nothing is lost or declared lost by it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from crisper.store.migrate import upgrade
from tests.acceptance.conftest import broker_urls
from tests.acceptance.outages import crashed, hung, stopped, talkative
from tests.acceptance.recorder_kills import Stream
from tests.acceptance.unharmed import all_run_once
from tests.fleet import Fleet, wait_for
from tests.servers import PrivatePostgres

LEASE = 3.0
QUICK = {"lease": LEASE, "heartbeat_interval": 0.5, "sweep_interval": 0.2}


@contextmanager
def fleet_on(server: PrivatePostgres, folder: Path, **options: Any) -> Iterator[Fleet]:
    upgrade(server.url)
    with talkative(folder, registry=server.url, **options) as fleet:
        yield fleet


def outage_under_load(
    fleet: Fleet, how: Any, server: PrivatePostgres, seconds: float, already: list[str]
) -> list[str]:
    """Tasks begin before it, end in it and after it, and are sent all along; with `already`, all sent."""
    before = len(fleet.starts())
    mark = f"{how.__name__}-{before}"
    ends_in = [fleet.send(name, mark, f"{mark}-in").id for name in ("late", "early")]
    ends_after = [fleet.send(name, mark, f"{mark}-after").id for name in ("late", "early")]
    running = [*ends_in, *ends_after]
    wait_for("running on record", lambda: [fleet.attempts(id) for id in running] == [[(1, "running")]] * 4)
    with Stream(fleet, 0.02) as stream:
        wait_for("the stream runs", lambda: len(fleet.starts()) > before + 10)
        with how(server):
            began = time.monotonic()
            (fleet.folder / f"{mark}-in").touch()
            wait_for("ended in it", lambda: all(fleet.ends(id) for id in ends_in), seconds)
            time.sleep(max(0.0, began + seconds - time.monotonic()))
        ended = len(fleet.ends())
        wait_for("the stream goes on", lambda: len(fleet.ends()) > ended + 10, 30)
    (fleet.folder / f"{mark}-after").touch()
    sent = [*already, *running, *stream.sent]
    all_run_once(fleet, sent, 60)
    assert {tuple(states) for states in fleet.incarnations().values()} == {("alive",)}
    return sent


@pytest.mark.timeout(120)
def test_a_registry_away_for_longer_than_the_lease_harms_no_task_and_no_worker(
    own_postgres: PrivatePostgres, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with fleet_on(own_postgres, tmp_path, **broker_urls("redis", request), **QUICK) as fleet:
        workers = [fleet.worker(name, "-c", "4", wait=False) for name in ("one", "two")]
        for worker in workers:
            worker.ready()
        sent = outage_under_load(fleet, stopped, own_postgres, LEASE + 1.5, [])
        # Longer than one call's own deadline, too.
        outage_under_load(fleet, hung, own_postgres, 2 * LEASE + 0.5, sent)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_a_registry_away_for_ten_and_thirty_seconds_harms_nothing_at_the_defaults(
    broker: str, own_postgres: PrivatePostgres, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with fleet_on(own_postgres, tmp_path, **broker_urls(broker, request)) as fleet:
        workers = [fleet.worker(name, "-c", "4", wait=False) for name in ("one", "two")]
        for worker in workers:
            worker.ready()
        sent: list[str] = []
        for how, seconds in ((stopped, 10), (hung, 10), (crashed, 10), (stopped, 30)):
            sent = outage_under_load(fleet, how, own_postgres, seconds, sent)


@pytest.mark.slow
def test_a_worker_killed_while_the_registry_is_away_is_found_once_it_is_back(
    own_postgres: PrivatePostgres, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with fleet_on(own_postgres, tmp_path, **broker_urls("redis", request), **QUICK) as fleet:
        first = fleet.worker("first")
        late = fleet.send("late", "killed", "open").id
        wait_for("it runs on record", lambda: fleet.attempts(late) == [(1, "running")])
        fleet.worker("second")
        with stopped(own_postgres):
            first.kill()
            time.sleep(LEASE + 1)
        (fleet.folder / "open").touch()
        wait_for("it ran again", lambda: fleet.attempts(late) == [(1, "lost"), (2, "succeeded")])
        assert fleet.incarnations() == {"first": ["lost"], "second": ["alive"]}
        assert len(fleet.ends(late)) == 1
