"""A real worker that reconnected, or seems to, and takes nothing; and those that rightly take nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from crisper.engine.survey import Survey
from tests.acceptance.test_wedged import events
from tests.faults.proxy import FaultProxy
from tests.fleet import Fleet, Worker, wait_for
from tests.servers import PrivateRedis

QUICK = {"heartbeat_interval": 0.3, "lease": 2, "sweep_interval": 0.3, "silent_after": 4}


@pytest.fixture
def proxy(own_redis: PrivateRedis) -> Iterator[FaultProxy]:
    parts = urlsplit(own_redis.url)
    with FaultProxy((str(parts.hostname), int(parts.port or 0))) as proxy:
        yield proxy


def made(own_redis: PrivateRedis, folder: Path, **settings: Any) -> Fleet:
    return Fleet(folder, broker=own_redis.url, backend=own_redis.url, **{**QUICK, **settings})


def falls_silent(fleet: Fleet, proxy: FaultProxy, *arguments: str) -> Worker:
    """Its connections are open, and nothing passes any more; new ones would do."""
    url = fleet.environment["FLEET_BROKER"]
    worker = fleet.worker("first", *arguments, FLEET_BROKER=proxy.address_in(url))
    first = fleet.send("late", "before", 0)
    wait_for("it works", lambda: fleet.attempts(first.id) == [(1, "succeeded")])
    proxy.hold_open_ones()
    no_longer_waits(url)
    return worker


def no_longer_waits(url: str) -> None:
    """What Redis answers to a question from before is lost with its connection."""
    with redis.Redis.from_url(url, decode_responses=True) as client:

        def waits() -> bool:
            return any(one["cmd"] == "brpop" and "b" in one["flags"] for one in client.client_list())

        wait_for("its last question is answered", lambda: not waits())


def goes_on(fleet: Fleet) -> None:
    sent = [fleet.send("late", n, 0) for n in range(3)]
    wait_for("it is named", lambda: events(fleet, "silent"), 30)
    [told] = events(fleet, "silent")
    assert told["action"] == "reconnect"
    wait_for("all run", lambda: all(fleet.attempts(one.id) == [(1, "succeeded")] for one in sent), 30)
    wait_for("that is on record", lambda: events(fleet, "went_on"))
    with closing(Survey(fleet.registry_url)) as survey:
        wait_for("and shown", lambda: not survey.workers()["workers"][0]["ails"])


def test_a_worker_that_takes_nothing_is_named_and_takes_a_new_connection(
    own_redis: PrivateRedis, proxy: FaultProxy, tmp_path: Path
) -> None:
    with closing(made(own_redis, tmp_path, on_silent="reconnect")) as fleet:
        falls_silent(fleet, proxy, "-c", "1")
        goes_on(fleet)


def test_so_does_one_that_hears_nothing_and_has_a_loop_that_turns(
    own_redis: PrivateRedis, tmp_path: Path
) -> None:
    with closing(made(own_redis, tmp_path, on_silent="reconnect")) as fleet:
        fleet.worker("first", "-c", "1")
        wait_for("it takes commands", lambda: fleet.app.control.ping(timeout=0.5))
        fleet.app.control.broadcast("deafen")
        no_longer_waits(own_redis.url)
        goes_on(fleet)
        [told] = events(fleet, "silent")
        assert (told["queue"], told["waiting"]) == ("celery", 3)


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_so_does_one_whose_loop_hangs_on_its_broker(
    own_redis: PrivateRedis, proxy: FaultProxy, tmp_path: Path, pool: str
) -> None:
    with closing(made(own_redis, tmp_path, on_silent="reconnect")) as fleet:
        falls_silent(fleet, proxy, "-P", pool)
        goes_on(fleet)


@pytest.mark.slow
def test_or_ends_for_its_supervisor(own_redis: PrivateRedis, proxy: FaultProxy, tmp_path: Path) -> None:
    with closing(made(own_redis, tmp_path, on_silent="exit")) as fleet:
        worker = falls_silent(fleet, proxy, "-c", "1")
        sent = fleet.send("late", "after", 0)
        worker.process.wait(50)
        assert events(fleet, "silent")
        fleet.worker("second", "-c", "1")
        wait_for("it runs", lambda: fleet.attempts(sent.id) == [(1, "succeeded")])


@pytest.mark.slow
def test_a_paused_queue_a_rate_limit_and_a_prefetch_full_of_etas_are_no_silence(
    own_redis: PrivateRedis, tmp_path: Path
) -> None:
    with closing(made(own_redis, tmp_path)) as fleet:
        fleet.worker("paused", "-c", "1", "-Q", "paused")
        fleet.worker("limited", "-c", "1", "-Q", "limited", FLEET_PREFETCH="1")
        fleet.worker("healthy", "-c", "1")
        fleet.app.control.rate_limit("tests.fleet_app.limited", "1/m", destination=["limited@test"])
        fleet.app.control.cancel_consumer("paused", destination=["paused@test"], reply=True)
        for _ in range(3):
            fleet.send("late", "paused", 0, queue="paused")
            fleet.send("limited", "limited", 0, queue="limited")
            fleet.send("late", "later", 0, countdown=3600)
        until = time.monotonic() + 12  # three times what makes silence
        while time.monotonic() < until:
            quick = fleet.send("late", "quick", 0)
            wait_for("it runs", lambda id=quick.id: fleet.ends(id))
        assert events(fleet, "silent") == events(fleet, "wedged") == []
