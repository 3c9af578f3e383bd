"""Whatever way leads to Redis, Crisper's own commands take it too: kombu's connection is theirs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fleet import Fleet, wait_for
from tests.left_out import needs
from tests.redis_ways import MASTER, AccountRedis, Group, SocketRedis, TlsRedis, group
from tests.servers import PrivateRedis

#: Kombu gives what is not acknowledged to others after so many seconds, unless it is kept.
VISIBILITY = 3
QUICK = {"lease": 3.0, "heartbeat_interval": 0.5, "sweep_interval": 0.2, "redelivery_grace": 2}


@contextlib.contextmanager
def fleet_on(folder: Path, broker: str, **options: Any) -> Iterator[Fleet]:
    options = {"visibility_timeout": VISIBILITY, **options}
    conf = {"broker_transport_options": options}
    if "master_name" in options:
        conf["result_backend_transport_options"] = {"master_name": options["master_name"]}
    backend = broker.replace("virtual_host=2", "virtual_host=3")
    made = Fleet(folder, broker=broker, backend=backend, **QUICK)
    made.environment["FLEET_CONF"] = json.dumps(conf)
    made.app.conf.update(conf)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(params=[TlsRedis, SocketRedis, AccountRedis, "sentinel"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    with needs("redis"), contextlib.ExitStack() as stack:
        options = {}
        if request.param == "sentinel":
            server: Group | PrivateRedis = stack.enter_context(group())
            options = {"master_name": MASTER}
        else:
            server = stack.enter_context(request.param())
        yield stack.enter_context(fleet_on(tmp_path, server.url, **options))


def test_what_lives_keeps_its_message_and_what_a_killed_worker_held_comes_back_once(fleet: Fleet) -> None:
    """The long one outlives the visibility timeout twice; four of the dead worker are two that ran and two
    that it had fetched."""
    first = fleet.worker("first")
    long = [fleet.send("late", f"long-{key}", 2.2 * VISIBILITY).id for key in range(2)]
    wait_for("they run", lambda: len(fleet.starts()) == 2)
    wait_for("they end", lambda: {line.task_id for line in fleet.ends()} == set(long))
    held = [fleet.send("late", key, "open").id for key in range(4)]
    wait_for("two run", lambda: len(fleet.starts()) == 4)
    wait_for("all are claimed", lambda: fleet.open_attempts() == 4)
    second = fleet.worker("second", "-c", "4")
    first.kill()
    pool = set(second.pool())
    wait_for("all run again", lambda: {x.task_id for x in fleet.starts() if x.pid in pool} == set(held))
    (fleet.folder / "open").touch()
    wait_for("all end", lambda: {line.task_id for line in fleet.ends()} == {*long, *held})
    wait_for("no attempt left open", lambda: fleet.open_attempts() == 0)
    assert [fleet.attempts(id) for id in long] == [[(1, "succeeded")]] * 2
    assert [fleet.attempts(id) for id in held] == [[(1, "lost"), (2, "succeeded")]] * 4
    assert fleet.run_twice() == []
    assert fleet.errors() == []


def test_what_runs_when_sentinel_makes_a_replica_the_master_ends_once(tmp_path: Path) -> None:
    """Celery 5.7 ends a worker whose Redis goes away behind Sentinel (restoring what it holds takes the
    connection that it has just closed): what it held is found in the replica by the next one. 5.5 goes on."""
    with needs("redis"), group() as servers, fleet_on(tmp_path, servers.url, master_name=MASTER) as fleet:
        wait_for("the replica follows", servers.is_whole)
        first = fleet.worker("first")
        sent = [fleet.send("late", key, "open").id for key in range(4)]
        wait_for("two run", lambda: len(fleet.starts()) == 2)
        wait_for("all are claimed", lambda: fleet.open_attempts() == 4)
        wait_for("the replica has it all", servers.is_replicated)
        servers.master.crash()
        wait_for("the replica leads", lambda: servers.leads() == servers.replica.port, 30)
        (fleet.folder / "open").touch()
        wait_for(
            "all end, or it does", lambda: len(fleet.ends()) == 4 or first.process.poll() is not None, 30
        )
        if first.process.poll() is not None:
            # Kombu looks for what it may restore when a consumer starts, and then every hundred seconds.
            wait_for("nobody renews it any more", lambda: servers.since_renewal() > VISIBILITY)
            fleet.worker("second")
        wait_for("all end", lambda: {line.task_id for line in fleet.ends()} == set(sent), 40)
        wait_for("no attempt left open", lambda: fleet.open_attempts() == 0)
        assert {fleet.attempts(id)[-1][1] for id in sent} == {"succeeded"}
        assert fleet.run_twice() == []
