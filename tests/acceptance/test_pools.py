"""Every pool: what a killed parent held comes back, whoever ran it; two connections, however many run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from crisper.store.migrate import upgrade
from tests.acceptance.conftest import broker_urls
from tests.acceptance.test_recorder import connections
from tests.acceptance.watching import how_lost, losses, nothing_left_in_the_broker, resident_mb
from tests.fleet import Fleet, wait_for


@pytest.fixture
def on_postgres(request: pytest.FixtureRequest, postgres_database: str, tmp_path: Path) -> Iterator[Fleet]:
    upgrade(postgres_database)
    broker = getattr(request, "param", "redis")
    fleet = Fleet(tmp_path, **broker_urls(broker, request), registry=postgres_database)
    yield fleet
    if getattr(request.node, "failed", False):
        print(fleet.story())
    fleet.close()


# Solo on RabbitMQ: on Redis, kombu has asked for a next message before the body begins, and what Redis
# then answers to a process that is busy and killed is nowhere.
@pytest.mark.parametrize(
    ("on_postgres", "pool"),
    [("redis", "threads"), ("redis", "gevent"), ("rabbitmq", "solo")],
    indirect=["on_postgres"],
)
def test_what_a_killed_parent_ran_and_held_runs_again_once_in_every_pool(
    on_postgres: Fleet, pool: str
) -> None:
    fleet = on_postgres
    if pool == "gevent":
        pytest.importorskip("gevent")
    first = fleet.worker("first", "-P", pool, "-c", "2")
    late = fleet.send("late", "late", "open").id
    wait_for("it runs on record", lambda: fleet.attempts(late) == [(1, "running")])
    early = fleet.send("early_resend", "early", "open").id
    begun = [late] if pool == "solo" else [late, early]
    wait_for("begun", lambda: {line.task_id for line in fleet.starts()} == set(begun))
    wait_for("on record", lambda: all(fleet.attempts(id) == [(1, "running")] for id in begun))
    held = fleet.send("late", "held", 0).id
    if pool != "solo":  # which receives nothing while it runs a body
        wait_for("held, too", lambda: fleet.attempts(held) == [(1, "claimed")])
    assert connections(fleet, first) == 2
    second = fleet.worker("second", "-P", pool, "-c", "3", wait=False)
    first.kill()
    second.ready()
    (fleet.folder / "open").touch()
    wait_for("all ended", lambda: {line.task_id for line in fleet.ends()} == {late, early, held})
    wait_for("no attempt left open", lambda: fleet.open_attempts() == 0)
    assert fleet.run_twice() == []
    assert all(fleet.attempts(id) == [(1, "lost"), (2, "succeeded")] for id in begun)
    assert fleet.attempts(held)[-1][1] == "succeeded"
    assert how_lost(fleet, "first") == ["witnessed by its recorder"]
    counted = fleet.rows("SELECT task_id, losses FROM crisper_recovery WHERE task_id = ?", late)
    assert counted == [(late, 1)], "it was seen running: its loss counts against its budget"
    nothing_left_in_the_broker(fleet)
    assert fleet.incarnations() == {"first": ["lost"], "second": ["alive"]}
    assert fleet.errors() == []


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_prefork_worker_of_fifty_holds_two_connections(on_postgres: Fleet) -> None:
    fleet = on_postgres
    worker = fleet.worker("fifty", "-c", "50", wait=False).ready(90)
    sent = [fleet.send("noop", key).id for key in range(2000)]
    finished = "SELECT count(*) FROM crisper_attempt WHERE state = 'succeeded'"
    most = 0

    def all_finished() -> bool:
        nonlocal most
        most = max(most, connections(fleet, worker))
        return bool(fleet.rows(finished)[0][0] == len(sent))

    wait_for("2,000 tasks finished", all_finished, 90)
    print(f"prefork, 50 processes: {most} connections, recorder {resident_mb(worker.recorder()):.1f} MB")
    assert most == 2
    assert losses(fleet) == 0
    assert fleet.errors() == []
