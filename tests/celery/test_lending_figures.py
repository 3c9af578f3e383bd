"""How many slots are lent, and what is left of them: on kombu's own books, without a worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from kombu import Connection
from kombu.common import QoS

from crisper.celery.held import Held
from crisper.celery.lending import AHEAD, BEHIND, OUTAGE_SECONDS, SLOW_SECONDS, Lending

PROCESSES, PREFETCH = 2, 8


class Books:
    """A consumer's prefetch on an embedded broker, and what is lent of it."""

    def __init__(
        self, channel: Any, *, prefetch: int = PREFETCH, limit: int | None = None, **conf: Any
    ) -> None:
        app = Celery(set_as_current=False)
        app.conf.update(conf)
        self.qos = QoS(channel.basic_qos, prefetch)
        self.qos.max_prefetch = limit  # which kombu before 5.6 does not know
        self.consumer = SimpleNamespace(
            qos=self.qos, task_consumer=SimpleNamespace(channel=channel), connection=None, app=app,
            _maximum_prefetch_restored=True,
        )  # fmt: skip
        pool = SimpleNamespace(num_processes=PROCESSES)
        worker = SimpleNamespace(consumer=self.consumer, hub=None, pool=pool)
        self.link, self.failures, self.granted = SimpleNamespace(durable=0), list[str](), 0
        self.lending = Lending(
            worker, self.link, ahead=True, granted=lambda: self.granted,  # type: ignore[arg-type]
            failed=self.failures.append,
        )  # fmt: skip

    def a_claim_waited(self, seconds: float, meanwhile: int) -> None:
        """The next answer is its, and so many bodies ended while it waited."""
        held = Held(1, SimpleNamespace(id="t", task=SimpleNamespace(acks_late=True)), "m", 0)
        held.asked_at, held.ended_before = time.monotonic() - seconds, self.lending.ended
        self.lending.ended += meanwhile
        self.lending.answered(held)
        self.lending.settle()

    def end(self) -> None:
        assert self.failures == []


@pytest.fixture
def channel() -> Iterator[Any]:
    with Connection("memory://") as connection:
        yield connection.default_channel


SLOW = 3 * SLOW_SECONDS


def test_bodies_that_may_have_ended_by_chance_lend_nothing_and_each_one_more_lends_two(channel: Any) -> None:
    """One for a claim, one for an outcome."""
    books = Books(channel)
    books.a_claim_waited(SLOW, PROCESSES)
    assert (books.qos.value, channel.qos.prefetch_count) == (PREFETCH, 0)
    books.end()
    books = Books(channel)
    books.a_claim_waited(SLOW, PROCESSES + 5)
    assert (books.qos.value, channel.qos.prefetch_count) == (PREFETCH + 2 * 5, PREFETCH + 2 * 5)
    books.end()


def test_what_waits_for_the_pool_already_is_not_lent_for(channel: Any) -> None:
    books = Books(channel)
    books.granted = 4
    books.a_claim_waited(SLOW, PROCESSES + 5)
    assert books.qos.value == PREFETCH + 2 * 1
    books.end()


def test_a_fast_commit_and_an_outage_lend_nothing_ahead(channel: Any) -> None:
    books = Books(channel)
    books.a_claim_waited(SLOW_SECONDS / 10, 50)
    books.a_claim_waited(OUTAGE_SECONDS + 1, 50)
    assert books.qos.value == PREFETCH
    books.end()


def test_no_more_is_lent_than_the_bound(channel: Any) -> None:
    books = Books(channel)
    books.a_claim_waited(SLOW, 10 * AHEAD)
    assert books.qos.value == PREFETCH + 2 * AHEAD
    for seq in range(1, 2 * BEHIND):
        books.lending.waits(seq)
    assert books.qos.value == PREFETCH + AHEAD + BEHIND
    books.end()


def test_what_is_durable_has_its_slot_again_before_it_is_acknowledged(channel: Any) -> None:
    books = Books(channel)
    books.a_claim_waited(SLOW, 0)
    for seq in (1, 2, 3):
        books.lending.waits(seq)
    assert channel.qos.prefetch_count == PREFETCH + 3
    books.link.durable = 2
    books.lending.settle()
    assert channel.qos.prefetch_count == PREFETCH + 1
    books.end()


def test_tasks_that_became_long_lend_less_with_each_answer_and_nothing_where_none_comes(channel: Any) -> None:
    books = Books(channel)
    books.a_claim_waited(SLOW, 30)
    assert books.qos.value == PREFETCH + 2 * (30 - PROCESSES)
    books.a_claim_waited(SLOW, 2)
    assert books.qos.value == PREFETCH + 2 * (27 - PROCESSES)
    books.lending.tick(None)
    assert books.qos.value == PREFETCH + 2 * (27 - PROCESSES)
    books.lending.tick(None)
    assert books.qos.value == PREFETCH
    books.end()


@pytest.mark.parametrize(
    "other",
    [{"prefetch": 0}, {"limit": 100}, {"worker_disable_prefetch": True}],
    ids=lambda one: next(iter(one)),
)
def test_a_prefetch_that_is_not_to_be_changed_is_left_alone(channel: Any, other: dict[str, Any]) -> None:
    books = Books(channel, **other)
    before = books.qos.value
    books.a_claim_waited(SLOW, 30)
    assert books.qos.value == before
    books.end()


def test_nothing_is_lent_while_celery_restores_the_prefetch_itself(channel: Any) -> None:
    books = Books(channel)
    books.consumer._maximum_prefetch_restored = False
    books.a_claim_waited(SLOW, 30)
    assert books.qos.value == PREFETCH
    books.end()


def test_what_was_lent_of_a_lost_connection_is_not_taken_from_the_next(channel: Any) -> None:
    books = Books(channel)
    books.a_claim_waited(SLOW, 30)
    books.lending.waits(1)
    books.lending.forget()
    books.consumer.qos = QoS(channel.basic_qos, PREFETCH)
    books.lending.tick(None)
    books.lending.tick(None)
    assert (books.lending.lent, books.consumer.qos.value) == (0, PREFETCH)
    books.end()


def test_what_a_fence_let_go_of_holds_no_lent_slot_although_nothing_more_becomes_durable(
    channel: Any,
) -> None:
    books = Books(channel)
    books.a_claim_waited(SLOW, 0)
    books.lending.waits(1)
    books.lending.forget()
    books.lending.settle()
    assert (books.lending.lent, channel.qos.prefetch_count) == (0, PREFETCH)
    books.end()


def test_threads_that_lend_at_once_leave_no_slot_behind(channel: Any) -> None:
    """Where no loop turns, each body's end may be on a thread of its own."""
    books = Books(channel)
    books.a_claim_waited(SLOW, 0)

    def outcomes(first: int) -> None:
        for seq in range(first, first + 200):
            books.lending.waits(seq)

    threads = [threading.Thread(target=outcomes, args=(1 + 200 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    books.link.durable = 800
    books.lending.settle()
    assert (books.lending.lent, books.qos.value) == (0, PREFETCH)
    books.end()
