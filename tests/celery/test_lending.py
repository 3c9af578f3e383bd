"""Where commits are slow, prefetch slots are lent to what only waits for one: none to tasks that are longer
than that, and none for ever."""

from __future__ import annotations

import json
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path

import pytest
from kombu.common import QoS

from crisper.store.migrate import upgrade
from tests.acceptance.conftest import BROKERS, broker_urls
from tests.acceptance.watching import messages_left, nothing_left_in_the_broker
from tests.celery.conftest import close_redis_connections
from tests.faults.postgres import FaultyPostgres
from tests.fleet import Fleet, Worker, wait_for
from tests.left_out import needs

pytestmark = pytest.mark.timeout(120)

#: Its pool's processes, and its prefetch.
PROCESSES, PREFETCH = 2, 8

Make = Callable[..., Fleet]


@pytest.fixture(scope="module")
def postgres() -> Iterator[FaultyPostgres]:
    with needs("a postgres with faults"), FaultyPostgres("slowfsync") as made:
        yield made


@pytest.fixture
def make(request: pytest.FixtureRequest, postgres: FaultyPostgres, tmp_path: Path) -> Iterator[Make]:
    fleets: list[Fleet] = []
    failed = request.session.testsfailed

    def made(broker: str, **settings: object) -> Fleet:
        name = f"lending_{uuid.uuid4().hex[:8]}"
        postgres.sql(f"CREATE DATABASE {name} OWNER fleet")
        url = postgres.url.rpartition("/")[0] + f"/{name}"
        upgrade(url)
        fleets.append(Fleet(tmp_path, **broker_urls(broker, request), registry=url, **settings))
        return fleets[0]

    yield made
    for fleet in fleets:
        if request.session.testsfailed > failed:
            print(fleet.story())
        fleet.close()


def received(worker: Worker) -> int:
    return worker.text().count("] received")


def holds(fleet: Fleet, worker: Worker) -> int:
    """Messages whose bodies have not ended, by the time that this asks."""
    return received(worker) - len(fleet.ends())


def prefetch(fleet: Fleet, worker: Worker) -> int | None:
    """Of its consumer, by Celery's own word."""
    name = f"{worker.name}@test"
    told = fleet.app.control.inspect([name], timeout=2).stats() or {}
    return told.get(name, {}).get("prefetch_count")


def holds_its_full_prefetch(fleet: Fleet, worker: Worker) -> None:
    wait_for("its own prefetch again", lambda: prefetch(fleet, worker) == PREFETCH)
    for _ in range(2):  # turns of the loop, which tells RabbitMQ
        turn = fleet.send("late", "turn", 0).id
        wait_for("it ends", lambda id=turn: id in {line.task_id for line in fleet.ends()})
    before = received(worker)
    sent = [fleet.send("late", key, "open").id for key in range(2 * PREFETCH)]
    wait_for("as many as it is", lambda: received(worker) == before + PREFETCH)
    (fleet.folder / "open").touch()
    wait_for("all end", lambda: {line.task_id for line in fleet.ends()} >= set(sent))
    wait_for("nothing is open", lambda: fleet.open_attempts() == 0)
    nothing_left_in_the_broker(fleet)
    assert fleet.run_twice() == []
    assert fleet.errors() == []


def runs_with_more(fleet: Fleet, worker: Worker, count: int) -> list[str]:
    """Short tasks, until it holds more of them than its prefetch."""
    sent = [fleet.send("late", key, 0).id for key in range(count)]
    wait_for("it holds more", lambda: holds(fleet, worker) > PREFETCH)
    return sent


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("recording", ["strict", "relaxed"])
def test_an_outcome_that_waits_for_its_commit_holds_no_prefetch_slot(
    make: Make, postgres: FaultyPostgres, broker: str, recording: str
) -> None:
    fleet = make(broker, recording=recording)
    worker = fleet.worker("one", "-c", "1", FLEET_PREFETCH="1")
    with postgres.slow(1000):
        first, second = (fleet.send("late", key, 0).id for key in range(2))
        wait_for("the first ended", lambda: first in {line.task_id for line in fleet.ends()})
        wait_for("the second is here", lambda: f"[{second}] received" in worker.text())
        assert fleet.attempts(first) != [(1, "succeeded")]
    wait_for("both succeed", lambda: all(fleet.attempts(id) == [(1, "succeeded")] for id in (first, second)))
    wait_for("its own prefetch again", lambda: prefetch(fleet, worker) == 1)
    nothing_left_in_the_broker(fleet)
    assert fleet.errors() == []


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_a_worker_of_long_tasks_holds_no_more_than_its_prefetch_however_slow_commits_are(
    make: Make, postgres: FaultyPostgres, broker: str
) -> None:
    fleet = make(broker)
    worker = fleet.worker("long", "-c", "2", FLEET_PREFETCH="1")
    with postgres.slow(100):
        for key in range(10):
            fleet.send("late", key, 1.0)
        most = 0
        give_up = time.monotonic() + 40
        while len(fleet.ends()) < 10:
            most = max(most, holds(fleet, worker))
            assert time.monotonic() < give_up
            time.sleep(0.02)
    assert most == PROCESSES
    assert fleet.errors() == []


@pytest.mark.parametrize(
    ("broker", "pool"),
    [*((one, "prefork") for one in BROKERS), ("redis", "threads")],
)
def test_short_tasks_are_claimed_ahead_and_afterwards_a_worker_holds_its_full_prefetch(
    make: Make, postgres: FaultyPostgres, broker: str, pool: str
) -> None:
    fleet = make(broker)
    worker = fleet.worker("short", "-c", "2", "-P", pool)
    with postgres.slow(100):
        runs_with_more(fleet, worker, 300)
        wait_for("all end", lambda: len(fleet.ends()) == 300, 60)
    holds_its_full_prefetch(fleet, worker)


@pytest.mark.parametrize(("broker", "pool"), [("redis", "gevent"), ("rabbitmq", "gevent"), ("redis", "solo")])
def test_a_pool_that_keeps_the_loop_from_consuming_gets_its_full_prefetch_again(
    make: Make, postgres: FaultyPostgres, broker: str, pool: str
) -> None:
    """Beside gevent it sleeps until something happens, for two seconds at most; solo runs bodies in it."""
    if pool == "gevent":
        pytest.importorskip("gevent")
    fleet = make(broker)
    worker = fleet.worker("alone", "-c", "2", "-P", pool)
    with postgres.slow(100):
        for key in range(40):
            fleet.send("late", key, 0)
        wait_for("all end", lambda: len(fleet.ends()) == 40, 40)
    if pool == "gevent":
        holds_its_full_prefetch(fleet, worker)
    else:
        wait_for("its own prefetch again", lambda: prefetch(fleet, worker) == PREFETCH)


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_after_a_lost_connection_what_was_lent_is_not_taken_from_the_next(
    make: Make, postgres: FaultyPostgres, broker: str, request: pytest.FixtureRequest
) -> None:
    fleet = make(broker)
    worker = fleet.worker("cut", "-c", "2")
    with postgres.slow(100):
        sent = runs_with_more(fleet, worker, 400)
        if broker == "redis":
            close_redis_connections(fleet.environment["FLEET_BROKER"])
        else:
            vhost = fleet.environment["FLEET_BROKER"].rpartition("/")[2]
            server = request.getfixturevalue("rabbitmq_server")
            fleet._forget_pools()
            fleet.app.close()
            server.ctl("close_all_connections", "--vhost", vhost, "a test")
            fleet.app = fleet._client()
        wait_for("all end", lambda: {line.task_id for line in fleet.ends()} == set(sent), 60)
    holds_its_full_prefetch(fleet, worker)


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_what_was_lent_goes_back_at_a_shutdown_and_runs_elsewhere(
    make: Make, postgres: FaultyPostgres, broker: str
) -> None:
    fleet = make(broker)
    worker = fleet.worker("ends", "-c", "2")
    with postgres.slow(100):
        sent = runs_with_more(fleet, worker, 400)
        assert worker.stop(signal.SIGTERM) == 0
    assert fleet.open_attempts() == 0
    waiting, unacknowledged = messages_left(fleet)
    assert (waiting >= len(sent) - len(fleet.ends()), unacknowledged) == (True, 0)
    fleet.worker("next")
    wait_for("all end", lambda: {line.task_id for line in fleet.ends()} == set(sent))
    wait_for("nothing is open", lambda: fleet.open_attempts() == 0)
    nothing_left_in_the_broker(fleet)
    assert fleet.run_twice() == []
    assert fleet.errors() == []


@pytest.mark.parametrize(
    ("broker", "conf", "own"),
    [
        ("redis", {"worker_prefetch_multiplier": 0}, 0),
        pytest.param(
            "redis",
            {"worker_eta_task_limit": 20},
            PREFETCH,
            marks=pytest.mark.skipif(
                "max_prefetch" not in signature(QoS).parameters, reason="kombu has no limit"
            ),
        ),
        ("rabbitmq", {"task_default_queue_type": "quorum"}, PREFETCH),
    ],
    ids=["none", "with a limit for ETA tasks", "of a quorum queue"],
)
def test_a_prefetch_that_cannot_be_changed_is_left_alone(
    make: Make, postgres: FaultyPostgres, broker: str, conf: dict[str, object], own: int
) -> None:
    fleet = make(broker)
    fleet.environment["FLEET_CONF"] = json.dumps(conf)
    fleet.app = fleet._client()
    worker = fleet.worker("own", "-c", "2")
    with postgres.slow(100):
        for key in range(100):
            fleet.send("late", key, 0)
        seen = set()
        while len(fleet.ends()) < 100:
            seen.add(prefetch(fleet, worker))
    assert seen - {None} == {own}
    wait_for("nothing is open", lambda: fleet.open_attempts() == 0)
    nothing_left_in_the_broker(fleet)
    assert fleet.errors() == []
