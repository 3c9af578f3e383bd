"""Bodies that share their worker's process, when it is fenced: they end where they can be ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import broker_urls
from tests.acceptance.watching import declare_lost, nothing_left_in_the_broker
from tests.fleet import Fleet, wait_for


@pytest.fixture
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path, **broker_urls("redis", request), heartbeat_interval=0.5, redelivery_grace=1)
    yield made
    made.close()


def is_ended_and_runs_again(fleet: Fleet, pool: str, task: str) -> None:
    worker = fleet.worker("fenced", "-P", pool, "-c", "4")
    late = [fleet.send(task, key, "open").id for key in range(2)]
    wait_for("both run", lambda: all(fleet.attempts(id) == [(1, "running")] for id in late))
    declare_lost(fleet)
    wait_for("a new incarnation", lambda: fleet.incarnations() == {"fenced": ["lost", "alive"]})
    wait_for("they are ended", lambda: [x.event for x in fleet.ledger()].count("broken_off") == 2)
    wait_for("they run again", lambda: all(len(fleet.starts(id)) == 2 for id in late))
    (fleet.folder / "open").touch()
    wait_for("on record", lambda: all(fleet.attempts(id) == [(1, "lost"), (2, "succeeded")] for id in late))
    nothing_left_in_the_broker(fleet)
    assert [len(fleet.ends(id)) for id in late] == [1, 1]
    assert worker.stop() == 0
    assert fleet.errors() == []


def test_a_greenlet_that_is_fenced_is_ended_and_its_task_runs_to_its_end_once(fleet: Fleet) -> None:
    is_ended_and_runs_again(fleet, "gevent", "late")


def test_a_thread_that_asks_for_an_exception_is_given_one_when_it_is_fenced(fleet: Fleet) -> None:
    is_ended_and_runs_again(fleet, "threads", "soft")
