"""An error in Crisper's own code never kills a worker or a task and never blocks an acknowledgement."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import broker_urls
from tests.acceptance.watching import losses, nothing_left_in_the_broker
from tests.fleet import Fleet, wait_for

QUICK = {"lease": 3.0, "heartbeat_interval": 0.2, "sweep_interval": 0.2}


@pytest.fixture
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path, **broker_urls("redis", request), **QUICK)
    yield made
    if getattr(request.node, "failed", False):
        print(made.story())
    made.close()


def errors_counted(fleet: Fleet, name: str) -> int:
    sql = "SELECT pulse FROM crisper_incarnation WHERE hostname = ?"
    return int(json.loads(fleet.rows(sql, f"{name}@test")[0][0]).get("errors", 0))


SINGLE = ("claim", "dispatch", "accepted", "finish", "when_durable", "child_lost")


@pytest.mark.parametrize(
    "faults",
    [
        "claim=4,dispatch=4,accepted=3,when_durable=2,child_lost=always,note=always",
        "link_receive=3,_granted=3,finish=3,on_timer=2,new_connection=always,courier_receive=always",
        *(pytest.param(f"{name}=always", marks=pytest.mark.slow) for name in SINGLE),
    ],
)
def test_an_error_of_our_own_kills_no_worker_and_no_task_and_blocks_no_acknowledgement(
    fleet: Fleet, faults: str
) -> None:
    worker = fleet.worker("faulty", "-c", "2", "--include", "tests.fleet_faulty", FLEET_FAULTS=faults)
    sent = [fleet.send(name, key, 0).id for key in range(6) for name in ("late", "early")]
    if "child_lost" in faults:
        fleet.send("dies_once", "dies", "_exit")
    wait_for("all ended", lambda: {line.task_id for line in fleet.ends()} >= set(sent))
    wait_for("acknowledged", lambda: fleet.app.AsyncResult(sent[-1]).ready())
    if "child_lost" not in faults:
        nothing_left_in_the_broker(fleet)
    wait_for("counted", lambda: errors_counted(fleet, "faulty") > 0)
    assert worker.process.poll() is None
    assert fleet.run_twice() == []
    assert len(worker.recorders()) == 1

    assert worker.stop() == 0
    fleet.worker("healthy", "-c", "2")
    more = fleet.send("late", "after", 0).id
    wait_for("the next one is recorded", lambda: fleet.attempts(more) == [(1, "succeeded")])
    wait_for("nothing is under way", lambda: fleet.open_attempts() == 0)
    assert fleet.run_twice() == []
    assert losses(fleet) == 0


def test_a_healthy_worker_counts_none(fleet: Fleet) -> None:
    """The control."""
    fleet.worker("healthy", "--include", "tests.fleet_faulty")
    sent = [fleet.send(name, key, 0).id for key in range(3) for name in ("late", "early")]
    wait_for("all on record", lambda: all(fleet.attempts(id) == [(1, "succeeded")] for id in sent))
    nothing_left_in_the_broker(fleet)
    assert errors_counted(fleet, "healthy") == 0
    assert fleet.errors() == []
