"""Silence on RabbitMQ: consumers that are gone, dead connections; and those that rightly get nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import celery
import pytest
from amqp.exceptions import NotFound
from kombu import Connection

from crisper.engine.silent import CONNECTION, LOOP
from tests.acceptance.test_silent import QUICK
from tests.acceptance.test_wedged import events
from tests.faults.proxy import FaultProxy
from tests.fleet import Fleet, Worker, wait_for
from tests.left_out import needs
from tests.servers import PrivateRabbitMQ

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def proxy(rabbitmq_vhost: str) -> Iterator[FaultProxy]:
    parts = urlsplit(rabbitmq_vhost)
    with FaultProxy((str(parts.hostname), int(parts.port or 5672))) as proxy:
        yield proxy


def made(url: str, folder: Path, **settings: Any) -> Fleet:
    return Fleet(folder, broker=url, **{**QUICK, **settings})


#: Whether a worker's control queue is its connection's alone.
LOCKS = celery.VERSION >= (5, 6)


def with_queue(name: str, *, consumer: dict[str, Any] | None = None, **arguments: Any) -> dict[str, str]:
    """The environment of a worker that declares it so."""
    given = {"x-" + key.replace("_", "-"): value for key, value in arguments.items()}
    queue = {"exchange": name, "routing_key": name, "queue_arguments": given, "consumer_arguments": consumer}
    return {"FLEET_CONF": json.dumps({"task_queues": {name: queue}})}


def works(fleet: Fleet) -> None:
    first = fleet.send("late", "before", 0)
    wait_for("it works", lambda: fleet.attempts(first.id) == [(1, "succeeded")])


def consumers(url: str) -> int:
    with Connection(url) as connection, suppress(NotFound):
        return int(connection.default_channel.queue_declare("celery", passive=True).consumer_count)
    return 0


def all_run(fleet: Fleet, sent: list[Any], seconds: float = 60) -> None:
    wait_for("all run", lambda: all(fleet.ends(one.id) for one in sent), seconds)


def falls_deaf(fleet: Fleet, proxy: FaultProxy, *arguments: str) -> Worker:
    """Its connections are open, and nothing passes any more; new ones would do."""
    worker = fleet.worker(
        "first", *arguments, FLEET_BROKER=proxy.address_in(fleet.environment["FLEET_BROKER"])
    )
    works(fleet)
    proxy.hold_open_ones()
    return worker


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_a_worker_whose_connection_is_dead_is_named_and_connects_anew_once_rabbitmq_lets_go(
    rabbitmq_vhost: str, proxy: FaultProxy, tmp_path: Path, pool: str
) -> None:
    """Its queue is empty: RabbitMQ sends what comes into the dead connection. Its control queue is locked by
    that, and Celery would end at a new one."""
    with closing(made(rabbitmq_vhost, tmp_path, on_silent="reconnect")) as fleet:
        worker = falls_deaf(fleet, proxy, "-P", pool)
        [told] = wait_for("it is named", lambda: events(fleet, "silent"), 60)
        assert told["sentence"].startswith((CONNECTION, LOOP))  # which the loop may have waited for just then
        assert told["action"] == "reconnect"
        if LOCKS:
            wait_for("it waits", lambda: "it connects anew behind that" in worker.text())
        proxy.reset()
        wait_for("it went on", lambda: events(fleet, "went_on"), 60)
        all_run(fleet, [fleet.send("late", n, 0) for n in range(20)])
        assert fleet.errors() == []


@pytest.mark.slow
def test_with_the_management_api_it_has_rabbitmq_let_go(tmp_path: Path) -> None:
    with needs("rabbitmq"), PrivateRabbitMQ(management=True) as node:
        url = node.url
        parts = urlsplit(url)
        with FaultProxy((str(parts.hostname), int(parts.port or 5672))) as proxy:
            settings = {"on_silent": "reconnect", "rabbitmq_management_url": node.management_url}
            with closing(made(url, tmp_path, **settings)) as fleet:
                falls_deaf(fleet, proxy)
                wait_for("it is named", lambda: events(fleet, "silent"), 60)
                wait_for("it went on", lambda: events(fleet, "went_on"), 60)
                all_run(fleet, [fleet.send("late", n, 0) for n in range(20)])
                assert fleet.errors() == []


@pytest.mark.slow
def test_it_is_named_within_a_minute_at_the_defaults(
    rabbitmq_vhost: str, proxy: FaultProxy, tmp_path: Path
) -> None:
    with closing(Fleet(tmp_path, broker=rabbitmq_vhost)) as fleet:
        falls_deaf(fleet, proxy)
        began = time.monotonic()
        wait_for("it is named", lambda: events(fleet, "silent"), 60)
        print(f"named after {time.monotonic() - began:.1f} s")


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_one_whose_consumers_are_gone_without_a_word_is_named_and_consumes_anew(
    rabbitmq_vhost: str, tmp_path: Path, pool: str
) -> None:
    with closing(made(rabbitmq_vhost, tmp_path, on_silent="reconnect")) as fleet:
        fleet.worker("first", "-P", pool)
        works(fleet)
        fleet.app.control.broadcast("forget_consumers", reply=True)
        sent = [fleet.send("late", n, 0) for n in range(3)]
        [told] = wait_for("it is named", lambda: events(fleet, "silent"), 60)
        assert (told["queue"], told["waiting"]) == ("celery", 3)
        all_run(fleet, sent)
        wait_for("that is on record", lambda: events(fleet, "went_on"))
        assert fleet.errors() == []


def test_one_whose_queue_is_deleted_is_told_so_and_goes_on_by_itself(
    rabbitmq_vhost: str, tmp_path: Path
) -> None:
    with closing(made(rabbitmq_vhost, tmp_path)) as fleet:
        worker = fleet.worker("first")
        works(fleet)
        with Connection(rabbitmq_vhost) as connection:
            connection.default_channel.queue_delete("celery")
        wait_for("it is told", lambda: "Connection to broker lost" in worker.text())
        wait_for("it consumes anew", lambda: consumers(rabbitmq_vhost) == 1)
        all_run(fleet, [fleet.send("late", n, 0) for n in range(3)])
        assert events(fleet, "silent") == []
        assert fleet.errors() == []


def test_a_queue_that_is_another_consumers_alone_makes_nobody_silent(
    rabbitmq_vhost: str, tmp_path: Path
) -> None:
    """What waits behind its long task waits by right; so does what an exhausted one leaves to no other."""
    sac = with_queue("sac", single_active_consumer=True)
    with closing(made(rabbitmq_vhost, tmp_path)) as fleet:
        fleet.worker("active", "-c", "1", "-Q", "sac", FLEET_PREFETCH="1", **sac)
        fleet.environment |= sac
        fleet.app.close()
        fleet.app = fleet._client()
        busy = fleet.send("late", "busy", "open", queue="sac")
        wait_for("it runs", lambda: fleet.starts(busy.id))
        fleet.worker("next", "-Q", "sac")
        waiting = [fleet.send("late", n, 0, queue="sac") for n in range(3)]
        time.sleep(3 * QUICK["silent_after"])
        assert events(fleet, "silent") == []
        assert fleet.starts(waiting[0].id) == []
        (tmp_path / "open").touch()
        all_run(fleet, waiting)


def test_nor_a_priority_an_empty_queue_and_one_that_another_empties(
    rabbitmq_vhost: str, tmp_path: Path
) -> None:
    with closing(made(rabbitmq_vhost, tmp_path)) as fleet:
        first = with_queue("shared", consumer={"x-priority": 10})
        fleet.worker("first", "-c", "2", "-Q", "shared", **first)
        fleet.worker("last", "-c", "1", "-Q", "shared", **with_queue("shared", consumer={"x-priority": 1}))
        fleet.worker("idle", "-c", "1", "-Q", "idle")
        until, sent = time.monotonic() + 3 * QUICK["silent_after"], []
        while time.monotonic() < until:
            sent += [fleet.send("late", n, 0.2, queue="shared") for n in range(5)]
            time.sleep(0.5)
        all_run(fleet, sent)
        assert events(fleet, "silent") == []
        assert fleet.errors() == []
