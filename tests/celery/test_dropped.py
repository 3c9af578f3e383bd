"""A delivery whose connection was lost before the registry had answered."""

from __future__ import annotations

from inspect import signature
from types import SimpleNamespace

import pytest
from celery.worker import state as worker_state
from kombu.common import QoS

from crisper.celery.deliveries import Deliveries
from crisper.celery.held import Held, Stage
from crisper.celery.link import Link
from crisper.recorder import wire
from crisper.settings import Settings

PREFETCH = 8


def deliveries_with_one() -> tuple[Deliveries, Link, Held]:
    app = SimpleNamespace(amqp=SimpleNamespace(queues={}))
    worker = SimpleNamespace(app=app, hub=None, blueprint=None, consumer=None, pool=None)
    link = Link("node", dict)
    deliveries = Deliveries(worker, link, Settings(registry_url="sqlite:////nowhere"))
    message = SimpleNamespace(delivery_tag="tag", channel=None, headers={})
    request = SimpleNamespace(
        id="task", task=SimpleNamespace(acks_late=True), acknowledged=False, _message=message
    )
    with link.in_order:
        held = Held(link.number(), request, "message", deliveries.generation)
        deliveries._by_seq[held.seq] = deliveries._asking[held.seq] = held
        deliveries._by_message["message"] = held
    return deliveries, link, held


def test_a_grant_that_crosses_the_dropping_of_a_parked_claim_is_a_couriers() -> None:
    deliveries, link, held = deliveries_with_one()
    deliveries._asking.clear()
    held.stage = Stage.PARKED
    deliveries.new_connection()
    assert not deliveries.held()
    deliveries._answer(held.seq, "granted", 2, "")
    [(_, item)] = link._unconfirmed
    assert (item[0], item[3], item[5]) == (wire.CHILD_LOST, held.seq, False)  # uncounted: a courier's


def test_a_claim_that_another_recorder_parks_after_it_was_taken_back_is_taken_back_again() -> None:
    """It was told of the claim, and that it is gone, before it had asked."""
    deliveries, link, held = deliveries_with_one()
    deliveries._asking.clear()
    held.stage = Stage.PARKED
    deliveries.new_connection()
    link._out.clear()
    deliveries._answer(held.seq, "parked", 0, "")
    assert link._out == [(wire.DROP, held.seq)]
    deliveries._answer(held.seq, "granted", 2, "")
    [(_, item)] = link._unconfirmed
    assert (item[0], item[3], item[5]) == (wire.CHILD_LOST, held.seq, False)  # uncounted: a courier's


def test_a_claim_that_was_taken_back_is_asked_for_anew_of_every_recorder_until_one_has_heard_of_it() -> None:
    """One that dies with the grant of it, and its end, in its hands would leave it claimed for good."""
    deliveries, link, held = deliveries_with_one()
    deliveries._asking.clear()
    held.stage = Stage.PARKED
    link.keep_standing(held.seq, (wire.CLAIM_AGAIN, "the claim"))
    deliveries.new_connection()
    assert link._standing == {held.seq: (wire.CLAIM_AGAIN, "the claim")}
    deliveries.note("something", None, {})
    deliveries._answers(link.last, [])
    assert not link._standing
    assert not deliveries._dropped  # no grant is on its way any more


def test_what_an_earlier_recorder_was_told_says_nothing_of_a_claim_that_the_next_one_may_get() -> None:
    """The next one is told of it again, not that it was taken back, and may write older records first."""
    deliveries, link, held = deliveries_with_one()
    deliveries._asking.clear()
    held.stage = Stage.PARKED
    link.keep_standing(held.seq, (wire.CLAIM_AGAIN, "the claim"))
    deliveries.new_connection()
    deliveries.note("something", None, {})
    link.since = link.last  # it died, and the next one was told everything again
    deliveries._answers(link.last, [])
    assert link._standing
    deliveries._answer(held.seq, "granted", 2, "on record now")
    [*_, (_, item)] = link._unconfirmed
    assert (item[0], item[3]) == (wire.CHILD_LOST, held.seq)
    assert not link._standing


def test_what_is_claimed_anew_is_not_lost_by_the_late_grant_of_its_earlier_claim() -> None:
    deliveries, link, held = deliveries_with_one()
    deliveries._asking.clear()
    earlier, held.stage = held.seq, Stage.PARKED
    deliveries._drop_claim(held)
    deliveries._forget(held)
    held.seq = link.number()
    deliveries._answer(earlier, "granted", 2, "")
    [(_, item)] = link._unconfirmed
    assert (item[0], item[3]) == (wire.CHILD_LOST, earlier)


def test_what_a_journal_let_run_unheard_before_a_fence_is_closed_when_it_goes_on_record() -> None:
    """Its recorder died before it said so: the delivery is claimed anew, and this claim is nobody's."""
    deliveries, link, held = deliveries_with_one()
    deliveries._claim_item = lambda held: [wire.CLAIM, 0, held.seq]  # type: ignore[method-assign]
    unheard = held.seq
    deliveries.fenced()
    assert held.seq != unheard
    deliveries.note("something", None, {})
    deliveries._answers(link.last - 1, [])  # the journal is replayed long after
    deliveries._answer(unheard, "granted", 2, "on record now")
    [*_, (_, item)] = link._unconfirmed
    assert (item[0], item[3], item[5]) == (wire.CHILD_LOST, unheard, False)  # uncounted: a courier's
    assert deliveries.held() == [held]


@pytest.mark.parametrize("connections", [1, 2])
def test_what_is_granted_after_its_connections_were_lost_is_released(connections: int) -> None:
    """Unreleased it would stay claimed as long as this worker lives, and be parked everywhere else."""
    deliveries, link, held = deliveries_with_one()
    for _ in range(connections):
        deliveries.new_connection()
    deliveries._answer(held.seq, "granted", 1, "")
    [(_, item)] = link._unconfirmed
    assert (item[0], item[3], item[5]) == (wire.FINISH, held.seq, "released")
    assert not deliveries.held()


def test_what_a_journal_let_run_whose_delivery_was_gone_is_a_couriers() -> None:
    """Nobody was asked whether another delivery of it has run meanwhile, and taken the message with it."""
    deliveries, link, held = deliveries_with_one()
    deliveries.new_connection()
    deliveries._answer(held.seq, "granted", 0, "the registry is away")
    [(_, item)] = link._unconfirmed
    assert (item[0], item[3], item[5]) == (wire.CHILD_LOST, held.seq, False)  # uncounted


def test_a_first_attempt_whose_delivery_was_gone_is_released() -> None:
    """The broker has its message again."""
    deliveries, link, held = deliveries_with_one()
    deliveries.new_connection()
    deliveries._answer(held.seq, "granted", 1, "")
    [(_, item)] = link._unconfirmed
    assert (item[0], item[3], item[5]) == (wire.FINISH, held.seq, "released")


def test_what_a_journal_let_run_after_it_was_given_back_is_released() -> None:
    """Nobody answered for a lease, so the message is the broker's again."""
    deliveries, link, held = deliveries_with_one()
    held.stage = Stage.DROPPED  # on the connection that it came by
    deliveries._answer(held.seq, "granted", 0, "the registry is away")
    [(_, item)] = link._unconfirmed
    assert (item[0], item[3], item[5]) == (wire.FINISH, held.seq, "released")


def test_trouble_with_lending_loses_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would leave a task claimed, and waiting, for as long as its worker lives."""
    deliveries, link, held = deliveries_with_one()

    def trouble(*about: object) -> None:
        raise RuntimeError("not a real pool")

    monkeypatch.setattr(deliveries.lending, "answered", trouble)
    monkeypatch.setattr(deliveries.lending, "settle", trouble)
    monkeypatch.setattr(link, "receive", lambda: [(wire.ANSWERS, held.seq, [])])
    deliveries.receive()
    assert held.stage is Stage.GRANTED
    assert deliveries.errors == 2


@pytest.mark.parametrize(
    "limit",
    [
        None,
        pytest.param(
            PREFETCH,
            marks=pytest.mark.skipif(
                "max_prefetch" not in signature(QoS).parameters, reason="kombu has no limit"
            ),
        ),
    ],
)
def test_what_was_parked_takes_no_more_of_the_prefetch_than_it_gave(
    limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`worker_eta_task_limit` cuts off what is given, and nothing of what is taken."""
    deliveries, _, held = deliveries_with_one()
    qos = QoS(lambda prefetch_count: None, PREFETCH)
    qos.max_prefetch = limit
    deliveries.worker.consumer = SimpleNamespace(qos=qos, task_consumer=None)
    deliveries._static = deliveries.generation, False
    monkeypatch.setattr(deliveries, "_keep_asking", lambda held: None)
    monkeypatch.setattr(worker_state, "reserved_requests", set())
    held.request = object()
    deliveries._parked(held)
    assert qos.value == PREFETCH + (limit is None)
    deliveries._granted(held, 2)
    assert qos.value == PREFETCH
