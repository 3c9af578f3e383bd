"""The broker is away, or hangs: no worker is declared lost by it, and every task still runs once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.outages import hung, stopped, talkative
from tests.acceptance.unharmed import all_run_once
from tests.fleet import Fleet, wait_for
from tests.left_out import needs
from tests.servers import PrivateRabbitMQ, PrivateRedis, PrivateServer

LEASE = 3.0
QUICK = {"lease": LEASE, "heartbeat_interval": 0.5, "sweep_interval": 0.2}
pytestmark = pytest.mark.timeout(240)


# RabbitMQ takes 10 s to be made and 5 s to start again.
@pytest.fixture(params=["redis", pytest.param("rabbitmq", marks=pytest.mark.slow)])
def server(request: pytest.FixtureRequest) -> Iterator[PrivateServer]:
    """A broker that keeps its messages over a restart."""
    with needs(request.param):
        made = PrivateRabbitMQ() if request.param == "rabbitmq" else durable_redis()
    with made:
        yield made


def durable_redis() -> PrivateRedis:
    return PrivateRedis(appendonly="yes", appendfsync="always")


def outage(fleet: Fleet, how: Any, server: PrivateServer, seconds: float, already: list[str]) -> list[str]:
    """Tasks end in it and after it, others wait prefetched or in the queue; with `already`, all sent."""
    mark = f"{how.__name__}-{len(already)}"
    ends_in, ends_after = (  # two on each worker, which has two slots
        [fleet.send(name, mark, f"{mark}-{when}", queue=queue).id for name, queue in where]
        for when, where in (
            ("in", (("late", "one"), ("early", "two"))),
            ("after", (("late", "two"), ("early", "one"))),
        )
    )
    running = [*ends_in, *ends_after]
    wait_for("running on record", lambda: [fleet.attempts(id) for id in running] == [[(1, "running")]] * 4)
    waiting = [fleet.send(name, key, 0.02).id for key in range(12) for name in ("late", "early")]
    wait_for("prefetched", lambda: fleet.open_attempts() >= 4 + 8)
    with how(server):
        began = time.monotonic()
        (fleet.folder / f"{mark}-in").touch()
        wait_for("ended in it", lambda: all(fleet.ends(id) for id in ends_in), seconds)
        time.sleep(max(0.0, began + seconds - time.monotonic()))
    (fleet.folder / f"{mark}-after").touch()
    more = [fleet.send(name, key, 0.02).id for key in range(5) for name in ("late", "early")]
    sent = [*already, *running, *waiting, *more]
    all_run_once(fleet, sent, 60)
    assert {tuple(states) for states in fleet.incarnations().values()} == {("alive",)}
    return sent


def two_workers(fleet: Fleet) -> None:
    workers = [fleet.worker(name, "-Q", f"celery,{name}", wait=False) for name in ("one", "two")]
    for worker in workers:
        worker.ready()


def test_a_broker_away_for_longer_than_the_lease_declares_nobody_and_loses_no_task(
    server: PrivateServer, tmp_path: Path
) -> None:
    with talkative(tmp_path, broker=server.url, **QUICK) as fleet:
        two_workers(fleet)
        sent = outage(fleet, hung, server, LEASE + 1, [])
        outage(fleet, stopped, server, LEASE + 1, sent)


@pytest.mark.slow
def test_a_broker_away_for_thirty_seconds_declares_nobody_and_loses_no_task_at_the_defaults(
    server: PrivateServer, tmp_path: Path
) -> None:
    with talkative(tmp_path, broker=server.url) as fleet:
        two_workers(fleet)
        sent = outage(fleet, hung, server, 30, [])
        outage(fleet, stopped, server, 30, sent)


def test_an_end_that_comes_on_record_after_a_new_connection_is_not_acknowledged_on_the_old_one(
    tmp_path: Path,
) -> None:
    """On Redis kombu would ask a transport that is gone for its address, and end the worker over that."""
    with needs("redis"), durable_redis() as redis, talkative(tmp_path, broker=redis.url, **QUICK) as fleet:
        worker = fleet.worker("one", "-c", "2")
        recorder = worker.recorder()
        sent = [fleet.send("late", key, "open").id for key in range(2)]
        wait_for("running", lambda: [fleet.attempts(id) for id in sent] == [[(1, "running")]] * 2)
        os.kill(recorder, signal.SIGSTOP)
        (fleet.folder / "open").touch()
        wait_for("they ended", lambda: all(fleet.ends(id) for id in sent))
        redis.stop()
        redis.start()
        wait_for("a new connection", lambda: worker.text().count("Connected to redis") == 2)
        os.kill(recorder, signal.SIGCONT)
        all_run_once(fleet, sent, 30)
        assert worker.process.poll() is None
        assert fleet.errors() == []
