"""A message that its exchange gives to several queues is a message of each of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Exchange

from tests.acceptance.asking import in_broker
from tests.acceptance.canvas_app import NAME, draw_on
from tests.acceptance.watching import is_recorded
from tests.celery.conftest import module_urls
from tests.fleet import Fleet, Worker, wait_for


@pytest.fixture(scope="module")
def fleet(
    broker: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    made = Fleet(tmp_path_factory.mktemp(broker), **module_urls(broker, request))
    made.module = "tests.acceptance.canvas_app"
    draw_on(made.app, made.folder)
    yield made
    made.close()


def start(fleet: Fleet, name: str, queues: str) -> Worker:
    return fleet.worker(name, "-P", "threads", "-c", "4", "-Q", queues, wait=False)


@pytest.fixture(scope="module")
def working(fleet: Fleet) -> Worker:
    """The worker of the queue `work`; another has the queue `audit`. A broadcast reaches both."""
    working, auditing = start(fleet, "working", "work,news"), start(fleet, "auditing", "audit,news")
    auditing.ready()
    working.ready()
    wait_for("a registry", lambda: is_recorded(fleet))
    return working


def send(fleet: Fleet, task: str, *args: Any, **where: Any) -> str:
    return str(fleet.app.send_task(NAME + task, args, **where).id)


TOPIC = {"queue": "work", "exchange": "jobs", "routing_key": "job.night.7"}
#: Kombu's Redis must have seen the exchange declared, and Celery does not declare a broadcast's.
NEWS = {"queue": "news", "declare": [Exchange("news", type="fanout")]}


@pytest.mark.parametrize("where", [TOPIC, NEWS], ids=["topic", "broadcast"])
@pytest.mark.parametrize("way", ["early", "late"])
def test_each_queue_runs_it_once(fleet: Fleet, working: Worker, way: str, where: dict[str, Any]) -> None:
    id = send(fleet, f"{way}_waits", 1, "", **where)
    wait_for("both ran it", lambda: [state for _, state in fleet.attempts(id)] == ["succeeded"] * 2)
    assert {line.pid for line in fleet.starts(id)} == {worker.pid for worker in fleet.workers}
    assert len(fleet.starts(id)) == 2


def test_what_one_of_them_loses_comes_back_to_its_queue_and_what_was_broadcast_to_it_is_held(
    fleet: Fleet, working: Worker
) -> None:
    """The queue of a broadcast is its worker's own, and goes with it."""
    topic = [send(fleet, f"{way}_waits", 1, **TOPIC) for way in ("late", "resent")]
    news = send(fleet, "late_waits", 2, **NEWS)
    for id in (*topic, news):
        wait_for("both run it", lambda id=id: fleet.attempts(id) == [(1, "running"), (2, "running")])
    heir = start(fleet, "heir", "work,news")
    working.kill()
    heir.ready()
    for id in topic:
        wait_for("the heir runs it", lambda id=id: [s for _, s in fleet.attempts(id)].count("running") == 2)
        assert {line.pid for line in fleet.starts(id)} == {worker.pid for worker in fleet.workers}
    wait_for("held", lambda: [state for _, state, _ in fleet.recoveries(news)] == ["held"], 45)
    (fleet.folder / "open").touch()
    wait_for("nothing open", lambda: fleet.open_attempts() == 0)
    for id in topic:
        assert sorted(state for _, state in fleet.attempts(id)) == ["lost", "succeeded", "succeeded"]
        assert (len(fleet.starts(id)), len(fleet.ends(id))) == (3, 2)
    assert sorted(state for _, state in fleet.attempts(news)) == ["lost", "succeeded"]
    assert (len(fleet.starts(news)), len(fleet.ends(news))) == (2, 1)
    for worker in fleet.workers[1:]:
        assert worker.stop() == 0
    assert in_broker(fleet, "work") == in_broker(fleet, "audit") == 0
    assert fleet.errors() == []
