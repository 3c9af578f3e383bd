"""A message is delivered to the next worker before the first one's release or loss is on record."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests.acceptance.watching import is_known_to_have_ended, nothing_left_in_the_broker
from tests.celery.conftest import module_urls
from tests.fleet import Fleet, Worker, wait_for


@pytest.fixture(scope="module")
def fleet(
    broker: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """With publishing on record: what Redis has just handed to a worker that is killed is nowhere."""
    settings = {"track_publish": "async", "redelivery_grace": 2 if broker == "redis" else 30}
    made = Fleet(tmp_path_factory.mktemp(broker), **module_urls(broker, request), **settings)
    made.app.conf.update({f"crisper_{name}": value for name, value in settings.items()})
    yield made
    made.close()


def warm(first: Worker, cut: Callable[[], None]) -> None:
    first.send_signal(signal.SIGTERM)


def cold(first: Worker, cut: Callable[[], None]) -> None:
    first.send_signal(signal.SIGQUIT)


def kill(first: Worker, cut: Callable[[], None]) -> None:
    first.kill()


def cut_off(first: Worker, cut: Callable[[], None]) -> None:
    cut()


@pytest.mark.parametrize("happens", [warm, cold, kill, cut_off])
def test_every_task_ends_once_whatever_happens_to_the_worker_that_held_it(
    fleet: Fleet,
    cut_connections: Callable[[], None],
    happens: Callable[[Worker, Callable[[], None]], None],
) -> None:
    """Sixty tasks over two workers; in the middle of it one of them gives back, or loses, what it holds."""
    name = happens.__name__
    first, second = fleet.worker(f"first-{name}", wait=False), fleet.worker(f"second-{name}", wait=False)
    for worker in (first, second):
        worker.ready()
    sent = {fleet.send("late", key, 0.1).id for key in range(60)}
    wait_for("a third is done", lambda: done(fleet, sent) > 20)
    began = time.time()
    happens(first, cut_connections)
    wait_for("all end", lambda: done(fleet, sent) == 60, 40)
    wait_for("on record", lambda: all(is_known_to_have_ended(fleet, id) for id in sent))
    twice = sent & set(fleet.run_twice())
    if happens in (warm, cut_off):
        assert not twice
    for id in twice:  # a body may be killed between its last line and its return: then it has not ended
        assert abs(fleet.ends(id)[0].at - began) < 1.0
    nothing_left_in_the_broker(fleet)
    assert fleet.open_attempts() == 0
    if happens is cut_off:
        first.send_signal(signal.SIGTERM)
    first.process.wait(30)
    assert second.stop() == 0
    nothing_left_in_the_broker(fleet)
    assert fleet.errors() == []


def done(fleet: Fleet, sent: set[str]) -> int:
    return len(sent & {line.task_id for line in fleet.ends()})
