"""Orders to stop: for one attempt of one incarnation, in force until its task is over, and on record."""

from __future__ import annotations

import pytest

from crisper.core.model import Order
from crisper.core.states import RecoveryState, State, VerdictKind
from tests.store.acting import KEPT, TOO_LARGE, Actor, Registry

WHY = "stopped by ann: wrong customer"


def stop(registry: Registry, task_id: str = "t", by: str = "ann"):  # type: ignore[no-untyped-def]
    return registry.store.stop(task_id, by=by, reason="wrong customer")


def revoke(me: Actor, of) -> None:  # type: ignore[no-untyped-def]
    assert me.finishes(of, State.REVOKED, reason=WHY).kind == "closed"


# An open attempt: its worker is told.


@pytest.mark.parametrize("running", [False, True])
def test_an_open_attempts_worker_and_no_other_is_told_until_it_is_closed(
    registry: Registry, running: bool
) -> None:
    me, other = registry.joins(), registry.joins()
    held = me.runs() if running else me.claims()
    assert registry.store.orders(me.id) == []
    stopped = stop(registry)
    assert (stopped.number, stopped.recovery) == (1, None)
    assert stopped.state is (State.RUNNING if running else State.CLAIMED)
    for _ in range(2):
        assert registry.store.orders(me.id) == [Order(held.seq, 1, WHY)]
    assert registry.store.orders(other.id) == []
    revoke(me, held)
    assert registry.store.orders(me.id) == []


def test_an_order_is_on_record_with_who_why_and_when(registry: Registry) -> None:
    registry.joins().claims()
    stop(registry)
    [event] = registry.events("stop", "t")
    assert (event.number, event.actor, event.data) == (
        1,
        "ann",
        {"reason": "wrong customer", "was": "claimed"},
    )
    assert event.at > 0


def test_who_orders_a_second_time_changes_nothing(registry: Registry) -> None:
    me = registry.joins()
    held = me.runs()
    assert stop(registry) == stop(registry, by="bob")
    assert registry.store.orders(me.id) == [Order(held.seq, 1, WHY)]
    assert len(registry.events("stop")) == 1


def test_an_order_follows_the_claim_that_its_attempt_is_given_to_anew(registry: Registry) -> None:
    me = registry.joins()
    me.claims()
    stop(registry)
    newer = me.wants()
    assert me.asks(newer)[1:4] == ("stopped", 1, WHY)
    assert registry.store.orders(me.id) == [Order(newer.seq, 1, WHY)]


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED, State.EXPIRED])
def test_an_order_that_comes_too_late_changes_nothing_and_is_closed(registry: Registry, state: State) -> None:
    me = registry.joins()
    held = me.runs()
    stop(registry)
    assert me.finishes(held, state).kind == "closed"
    assert registry.states("t") == [state]
    assert registry.body("t", 1) is None
    assert registry.store.orders(me.id) == []
    assert me.asks(me.wants("t", "published on purpose")).kind == "granted"


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED, State.REVOKED, State.EXPIRED])
def test_what_is_over_is_not_stopped(registry: Registry, state: State) -> None:
    registry.joins().ends("t", "m", state)
    assert stop(registry) is None
    assert registry.events("stop") == []


def test_an_unknown_task_is_not_stopped(registry: Registry) -> None:
    assert stop(registry, "nothing") is None


# The fence: the order is for the attempt, and follows the task, but never another message of the same id.


def test_a_stopped_message_never_runs_again(registry: Registry) -> None:
    me, other = registry.joins(), registry.joins()
    held = me.runs()
    stop(registry)
    revoke(me, held)
    refused = other.asks(other.wants(redelivered=True))
    assert (refused.kind, refused.reason) == ("refused", "finished: revoked")


@pytest.mark.parametrize("state", [State.RELEASED, State.REJECTED])
@pytest.mark.parametrize("before", [True, False])
def test_what_was_given_back_is_stopped_when_it_comes_again(
    registry: Registry, state: State, before: bool
) -> None:
    """Ordered before or after its worker gave it back."""
    me, other = registry.joins(), registry.joins()
    held = me.claims()
    if before:
        stop(registry)
    assert me.finishes(held, state).kind == "closed"
    if not before:
        assert stop(registry).state is state
    assert registry.store.orders(me.id) == []
    again = other.wants(redelivered=True)
    for _ in range(2):  # a repeated record is answered as it was then
        assert other.asks(again)[1:4] == ("stopped", 2, WHY)
    assert registry.store.orders(me.id) == []
    assert registry.store.orders(other.id) == [Order(again.seq, 2, WHY)]
    revoke(other, again)
    assert registry.states("t") == [state, State.REVOKED]
    assert registry.store.orders(other.id) == []


@pytest.mark.parametrize("heard", [True, False])
def test_a_retry_of_what_was_to_be_stopped_is_stopped(registry: Registry, heard: bool) -> None:
    """Its own retry may be claimed before its worker has told that it was retried."""
    me, other = registry.joins(), registry.joins()
    held = me.runs("t", "m1")
    stop(registry)
    if heard:
        me.finishes(held, State.RETRIED)
    retry = other.wants("t", "m2", retries=1)
    assert other.asks(retry)[1:4] == ("stopped", 2, WHY)
    if not heard:
        me.finishes(held, State.RETRIED)
    assert registry.store.orders(me.id) == []
    assert registry.states("t")[0] is State.RETRIED


def test_another_message_of_the_same_id_is_not_stopped(registry: Registry) -> None:
    me, other = registry.joins(), registry.joins()
    held = me.claims("t", "m1")
    stop(registry)
    me.finishes(held, State.RELEASED)
    assert other.asks(other.wants("t", "published on purpose"))[1:4] == ("granted", 2, "")


def test_what_a_person_publishes_after_a_stop_runs(registry: Registry) -> None:
    me = registry.joins()
    held = me.runs("t", "m1")
    stop(registry)
    revoke(me, held)
    assert me.asks(me.wants("t", "m2"))[1:4] == ("granted", 2, "")
    assert registry.store.orders(me.id) == []


# A lost attempt: a verdict by a person.


def test_what_is_lost_before_its_worker_could_stop_it_is_not_brought_back(registry: Registry) -> None:
    me = registry.joins()
    me.runs()
    stop(registry)
    me.is_lost()
    [case] = registry.take()
    recovery = case.recovery
    assert (recovery.state, recovery.verdict) == (RecoveryState.DECIDED, VerdictKind.REVOKED)
    assert (recovery.decided_by, recovery.reason) == ("ann", "wrong customer")
    [verdict] = registry.events("verdict", "t")
    assert (verdict.actor, verdict.data["verdict"]) == ("ann", "revoked")
    assert registry.store.complete(recovery, by="courier", data={})
    other = registry.joins()
    assert other.asks(other.wants(redelivered=True)).kind == "refused"
    assert registry.states("t") == [State.LOST]
    assert stop(registry) is None


def test_a_process_that_dies_before_it_is_stopped_is_not_brought_back_either(registry: Registry) -> None:
    me = registry.joins()
    held = me.runs()
    stop(registry)
    assert me.loses_child(held).kind == "lost"
    assert registry.recovery("t").verdict is VerdictKind.REVOKED


def test_what_its_courier_cannot_carry_out_now_stays_revoked(registry: Registry) -> None:
    me = registry.joins()
    me.runs()
    stop(registry)
    me.is_lost()
    [case] = registry.take()
    assert registry.store.give_up_case(case.recovery, by="c", why="backend away", due_in_ms=0)
    [again] = registry.take("other")
    assert (again.recovery.state, again.recovery.verdict) == (RecoveryState.DECIDED, VerdictKind.REVOKED)


def test_a_lost_neighbour_that_nobody_ordered_to_stop_is_brought_back(registry: Registry) -> None:
    me = registry.joins()
    me.runs("t", "m1")
    me.runs("neighbour", "m2")
    stop(registry)
    me.is_lost()
    assert registry.recovery("neighbour").state is RecoveryState.PENDING


@pytest.mark.parametrize(
    "verdict",
    [None, VerdictKind.RESEND, VerdictKind.AWAIT_REDELIVERY, VerdictKind.HOLD, VerdictKind.QUARANTINE,
     VerdictKind.FAIL],
)  # fmt: skip
def test_a_lost_task_is_stopped_wherever_its_recovery_stands(
    registry: Registry, verdict: VerdictKind | None
) -> None:
    me = registry.joins()
    me.runs()
    me.is_lost()
    before = registry.decided("t", verdict) if verdict else registry.take()[0].recovery
    stopped = stop(registry)
    assert stopped.recovery == registry.recovery("t")
    assert (stopped.recovery.state, stopped.recovery.verdict) == (RecoveryState.DECIDED, VerdictKind.REVOKED)
    assert not registry.store.complete(before, by="courier", data={})
    other = registry.joins()
    assert other.asks(other.wants(redelivered=True)).kind == "parked"
    assert registry.store.complete(stopped.recovery, by="cli", data={})
    again = other.asks(other.wants(redelivered=True))
    assert (again.kind, again.reason) == ("refused", "finished: revoked")


def test_what_was_sent_again_and_has_not_begun_is_stopped(registry: Registry) -> None:
    me = registry.joins()
    me.runs()
    me.is_lost()
    assert registry.store.complete(registry.decided("t", VerdictKind.RESEND), by="c", data={})
    stopped = stop(registry)
    assert registry.store.complete(stopped.recovery, by="cli", data={})
    other = registry.joins()
    assert other.asks(other.wants()).kind == "refused"


@pytest.mark.parametrize("verdict", [VerdictKind.SETTLED, VerdictKind.EXPIRED, VerdictKind.FAIL])
def test_a_lost_task_that_is_over_is_not_stopped(registry: Registry, verdict: VerdictKind) -> None:
    me = registry.joins()
    me.runs()
    me.is_lost()
    decided = registry.decided("t", verdict)
    registry.store.complete(decided, by="c", data={})
    assert stop(registry) is None
    assert registry.recovery("t").verdict is verdict


# Undone by a person.


@pytest.mark.parametrize("lost", [False, True])
def test_a_stopped_task_keeps_its_message_and_a_person_recovers_it(registry: Registry, lost: bool) -> None:
    me = registry.joins()
    held = me.runs()
    stop(registry)
    if lost:
        me.is_lost()
        assert registry.store.complete(registry.take()[0].recovery, by="c", data={})
    else:
        revoke(me, held)
    assert registry.body("t", 1) == KEPT.body
    recovery = registry.store.recover("t", by="bob", reason="the right one after all")
    assert (recovery.state, recovery.verdict) == (RecoveryState.DECIDED, VerdictKind.RECOVER)
    case = registry.store.case("t", 1)
    assert case is not None
    assert case.message == KEPT
    assert registry.store.complete(recovery, by="cli", data={})
    other = registry.joins()
    again = other.wants()
    assert other.asks(again)[1:4] == ("granted", 2, "")
    assert registry.store.orders(other.id) == []
    assert registry.body("t", 1) is None
    assert other.finishes(again).kind == "closed"
    copy = other.asks(other.wants(redelivered=True))
    assert (copy.kind, copy.reason) == ("refused", "finished: succeeded")


def test_a_stopped_task_that_is_recovered_can_be_stopped_before_it_begins(registry: Registry) -> None:
    me = registry.joins()
    held = me.runs()
    stop(registry)
    revoke(me, held)
    sent = registry.store.recover("t", by="bob", reason="again")
    assert registry.store.complete(sent, by="cli", data={})
    assert stop(registry).recovery.verdict is VerdictKind.REVOKED
    assert registry.store.complete(registry.recovery("t"), by="cli", data={})
    assert me.asks(me.wants(redelivered=True)).kind == "refused"


def test_a_stopped_task_whose_message_is_not_kept_is_not_recovered(registry: Registry) -> None:
    me = registry.joins()
    held = me.runs(message=TOO_LARGE)
    stop(registry)
    revoke(me, held)
    assert registry.store.recover("t", by="bob", reason="again") is None
    assert registry.recoveries("t") == []


def test_what_celery_revoked_forgets_its_message(registry: Registry) -> None:
    registry.joins().ends("t", "m", State.REVOKED)
    assert registry.body("t", 1) is None
    assert registry.store.recover("t", by="bob", reason="again") is None


# Everything at once.


def test_an_order_and_the_end_of_an_attempt_race_and_neither_is_lost(shared) -> None:  # type: ignore[no-untyped-def]
    """Whoever comes first: released and then claimed again, or lost, it does not run."""
    import threading

    for round in range(20):
        task = f"t{round}"
        me, other = shared.joins(), shared.joins()
        held = me.claims(task)
        stores = [shared.another(), shared.another()]
        barrier = threading.Barrier(2)

        def ends(me=me, held=held, store=stores[0], barrier=barrier) -> None:  # type: ignore[no-untyped-def]
            barrier.wait()
            store.record(me.fence, [me.finish(held, State.RELEASED)])

        def orders(task=task, store=stores[1], barrier=barrier) -> None:  # type: ignore[no-untyped-def]
            barrier.wait()
            assert store.stop(task, by="ann", reason="wrong customer") is not None

        threads = [threading.Thread(target=ends), threading.Thread(target=orders)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert other.asks(other.wants(task, redelivered=True))[1:4] == ("stopped", 2, WHY)
        for store in stores:
            store.close()


def test_an_order_and_a_claim_race_and_the_order_is_not_lost(shared) -> None:  # type: ignore[no-untyped-def]
    import threading

    for round in range(20):
        task = f"t{round}"
        me, other = shared.joins(), shared.joins()
        me.finishes(me.claims(task), State.RELEASED)
        stores = [shared.another(), shared.another()]
        barrier, again, answers = threading.Barrier(2), other.wants(task, redelivered=True), []

        def claims(store=stores[0], barrier=barrier, again=again, other=other, answers=answers) -> None:  # type: ignore[no-untyped-def]
            barrier.wait()
            answers.extend(store.record(other.fence, [again]))

        def orders(task=task, store=stores[1], barrier=barrier) -> None:  # type: ignore[no-untyped-def]
            barrier.wait()
            assert store.stop(task, by="ann", reason="wrong customer") is not None

        threads = [threading.Thread(target=claims), threading.Thread(target=orders)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        told = [order.number for order in shared.store.orders(other.id)]
        assert told == [2], (round, answers)
        for store in stores:
            store.close()
