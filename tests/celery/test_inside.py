"""One body of many in a process is asked to end: that one, and never the next one in its thread."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded, Terminated, WorkerLostError
from celery.concurrency import gevent as celery_gevent
from celery.concurrency import thread as celery_thread

from crisper.celery.inside import OUTSIDE, Inside
from tests.fleet import wait_for

#: How the bodies of one run ended, by their attempt.
Ends = dict[int, str]


def held(seq: int, *, soft: bool = True) -> Any:
    task = SimpleNamespace(crisper={"stop_by": "soft"} if soft else None)
    return SimpleNamespace(seq=seq, request=SimpleNamespace(task=task))


def trace_task(request: dict[str, Any], body: Callable[[], None], store: Callable[[], None]) -> str:
    """As Celery's, in what is looked at: its name, `request` and `state`."""
    state = None
    try:
        body()
        state = "SUCCESS"
    except Exception as exc:
        state = type(exc).__name__
    store()
    return state


@contextmanager
def threads(count: int) -> Iterator[tuple[Any, Inside]]:
    pool = celery_thread.TaskPool(count)
    pool.start()
    yield pool, Inside(SimpleNamespace(pool=pool))
    pool.stop()


def given(pool: Any, inside: Inside, seq: int, target: Callable[..., Any], *args: Any) -> list[Any]:
    """What its pool hands to `on_success`, once it does."""
    told: list[Any] = []
    inside.around(pool, held(seq)).apply_async(target, args, callback=told.append)
    return told


def test_an_order_at_any_moment_hits_its_own_attempt_or_none() -> None:
    """Thousands of short bodies in two threads, one behind the other, and orders for the odd ones."""
    random.seed(7)
    ends: Ends = {}
    hit: set[int] = set()
    count = 4_000

    def work() -> None:
        for _ in range(random.randrange(20)):
            time.sleep(0)

    def target(seq: int) -> None:
        ends[seq] = trace_task({"crisper": (seq, 1, "")}, work, lambda: time.sleep(0))

    with threads(2) as (pool, inside):
        for seq in range(1, count + 1):
            given(pool, inside, seq, target, seq)
        while len(ends) < count:
            for seq in list(inside._bodies):
                if seq % 2:
                    inside.end(held(seq), lambda seq=seq: hit.add(seq))  # type: ignore[misc]
            time.sleep(0)
    assert {how for seq, how in ends.items() if seq not in hit} == {"SUCCESS"}
    assert set(ends.values()) == {"SUCCESS", "SoftTimeLimitExceeded"}
    assert len(hit) > 100


def test_what_a_thread_was_given_and_has_not_raised_is_taken_back_behind_its_body() -> None:
    """It stands in C code, which is where most hang, and its body returns from there."""
    inside_it, go_on, said = threading.Event(), threading.Event(), []

    def target() -> str:
        return trace_task({"crisper": (1, 1, "")}, body, lambda: None)

    def body() -> None:
        inside_it.set()
        go_on.wait()

    def following() -> None:
        for _ in range(1000):
            said.append(1)

    with threads(1) as (pool, inside):
        first = given(pool, inside, 1, target)
        inside_it.wait(10)
        told: list[int] = []
        inside.end(held(1), lambda: told.append(1))
        inside.end(held(1), lambda: told.append(2))  # a second order
        assert told == [1]
        second = given(pool, inside, 2, following)
        go_on.set()
        wait_for("both have ended", lambda: first and second)
    assert first == ["SoftTimeLimitExceeded"]
    assert (second, len(said)) == ([None], 1000)


def test_an_attempt_whose_outcome_is_being_stored_is_not_asked_any_more() -> None:
    storing, stored, told = threading.Event(), threading.Event(), []

    def store() -> None:
        storing.set()
        stored.wait()

    def target() -> str:
        return trace_task({"crisper": (1, 1, "")}, lambda: None, store)

    with threads(1) as (pool, inside):
        ended = given(pool, inside, 1, target)
        storing.wait(10)
        inside.end(held(1), lambda: told.append(1))
        stored.set()
        wait_for("it has ended", lambda: ended)
    assert (ended, told) == (["SUCCESS"], [])


def test_a_task_that_does_not_ask_for_it_is_not_interrupted_in_a_thread() -> None:
    with threads(1) as (_, inside):
        task = held(1, soft=False).request.task
        assert "does not ask for an exception" in inside.why_not(task)
        assert inside.why_not(held(1).request.task) == ""


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(ValueError, ValueError), (SystemExit, WorkerLostError), (KeyboardInterrupt, WorkerLostError)],
)
def test_whatever_a_body_ends_with_is_an_outcome(
    error: type[BaseException], outcome: type[BaseException]
) -> None:
    """Where Celery cannot store a result its tracing raises, and its pools of threads tell nobody."""

    def target() -> None:
        raise error("the backend is away")

    with threads(1) as (pool, inside):
        told = given(pool, inside, 1, target)
        [(kind, info, runtime)] = wait_for("it is told", lambda: told)
    assert (kind, runtime) == (OUTSIDE, None)
    assert isinstance(info.exception, outcome) or isinstance(info.exception.exc, outcome)


def test_one_greenlet_is_ended_and_its_neighbours_go_on() -> None:
    gevent = pytest.importorskip("gevent")
    pool = celery_gevent.TaskPool(3)
    pool.start()
    inside = Inside(SimpleNamespace(pool=pool))
    told: dict[int, list[Any]] = {}

    def target(seq: int) -> str:
        return trace_task({"crisper": (seq, 1, "")}, lambda: gevent.sleep(0.2), lambda: None)

    for seq in (1, 2, 3):
        told[seq] = []
        inside.around(pool, held(seq)).apply_async(target, (seq,), callback=told[seq].append)
    gevent.sleep(0.05)
    inside.end(held(2, soft=False), lambda: None)
    inside.end(held(3), lambda: None)
    inside.end(held(7), lambda: None)  # over, or not here
    gevent.sleep(0.5)
    assert (told[1], told[3]) == (["SUCCESS"], [SoftTimeLimitExceeded.__name__])
    [(kind, info, _)] = told[2]
    assert kind == OUTSIDE
    assert isinstance(getattr(info.exception, "exc", info.exception), Terminated)
