"""A body that holds the interpreter lock keeps its whole process from running: it is alive all the same."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import broker_urls
from tests.acceptance.watching import losses, nothing_left_in_the_broker
from tests.fleet import Fleet, wait_for

LEASE = 3.0
POOLS = ("prefork", "threads", "gevent", "eventlet", "solo")


@pytest.fixture(params=["redis", "rabbitmq"])
def quick(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(
        tmp_path, **broker_urls(request.param, request),
        lease=LEASE, heartbeat_interval=0.5, sweep_interval=0.2,
    )  # fmt: skip
    yield fleet
    fleet.close()


def test_a_body_that_holds_the_interpreter_lock_for_three_leases_is_not_lost_in_any_pool(
    quick: Fleet,
) -> None:
    """Five workers at once, each with a queue of its own; every one renews its lease by its recorder."""
    for pool in POOLS:
        quick.worker(pool, "-P", pool, "-c", "2", "-Q", pool, wait=False)
    for worker in quick.workers:
        worker.ready()
    ids = [quick.send("lock", pool, 3 * LEASE, queue=pool).id for pool in POOLS]
    wait_for("all end", lambda: len(quick.ends()) == len(POOLS), 40)
    wait_for("on record", lambda: all(quick.attempts(id) == [(1, "succeeded")] for id in ids))
    assert losses(quick) == 0
    assert quick.errors() == []
    for worker in quick.workers:
        worker.send_signal(signal.SIGTERM)
    assert [worker.process.wait(30) for worker in quick.workers] == [0] * len(POOLS)
    wait_for("all said goodbye", lambda: set(map(tuple, quick.incarnations().values())) == {("gone",)})


def test_a_worker_with_options_and_a_strategy_of_its_own_records_as_any_other(quick: Fleet) -> None:
    purged = quick.send("late", "purged", 0).id
    plain = [f"--without-{part}" for part in ("gossip", "mingle", "heartbeat")]
    worker = quick.worker("one", "-O", "fair", "--purge", *plain, wait=False)
    worker.ready()
    ids = [quick.send(task, key, 0.05).id for key in range(10) for task in ("late", "own_strategy")]
    wait_for("on record", lambda: all(quick.attempts(id) == [(1, "succeeded")] for id in ids))
    assert quick.starts(purged) == []
    noted = (quick.folder / "strategy").read_text().splitlines()
    assert len(noted) == 10, "its own strategy saw every message"
    assert json.loads(noted[0])["task"] == "tests.fleet_app.own_strategy"
    assert worker.stop() == 0
    nothing_left_in_the_broker(quick)
    assert quick.errors() == []
