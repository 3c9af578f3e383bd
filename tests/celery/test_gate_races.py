"""A message is delivered to the next worker before the first one's release or loss is on record."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from tests.acceptance.watching import messages_left, nothing_left_in_the_broker
from tests.fleet import Fleet, Worker, wait_for


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
    broker: str,
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
    if happens is kill and broker == "redis":
        sent -= popped(fleet, sent)
    wait_for("all end", lambda: done(fleet, sent) == len(sent), 30)
    wait_for("on record", lambda: all(fleet.attempts(id)[-1][1] == "succeeded" for id in sent))
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


def popped(fleet: Fleet, sent: set[str]) -> set[str]:
    """The task, one at most, whose message the killed worker had just taken out of its list: kombu writes
    it down in a second step, and without a record of publishing nobody can know of it (docs/safety.md)."""
    wait_for("nothing waits", lambda: messages_left(fleet) == (0, 0), 30)
    with fleet.store() as store, store.db.write():
        claimed = {id for (id,) in store.db.rows("SELECT task_id FROM crisper_attempt")}
    assert len(sent - claimed) <= 1
    return sent - claimed


def done(fleet: Fleet, sent: set[str]) -> int:
    return len(sent & {line.task_id for line in fleet.ends()})
