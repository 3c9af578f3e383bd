"""Closing what a dead incarnation left open, and counting losses."""

from __future__ import annotations

from crisper.core.states import RecoveryState, State, VerdictKind
from tests.store.acting import SCOPE, Actor, Registry, start


def test_nothing_of_a_living_incarnation_is_closed(registry: Registry) -> None:
    me = registry.joins()
    me.runs()
    assert registry.store.close_lost(me.id, by="sweeper") == ((), False)
    assert registry.states("t") == [State.RUNNING]
    assert not registry.worker(me.id).cleared


def test_a_claim_by_a_declared_incarnation_changes_nothing_until_the_second_phase(registry: Registry) -> None:
    me = registry.joins()
    me.runs()
    me.is_declared()
    assert registry.states("t") == [State.RUNNING]
    assert registry.recoveries("t") == []
    assert not registry.worker(me.id).cleared


def test_every_open_attempt_is_closed_with_one_pending_recovery(registry: Registry) -> None:
    me = registry.joins(hostname="celery@a")
    me.claims("claimed")
    me.claims("dispatched", dispatched=True)
    me.runs("running")
    me.ends("ended", "m", State.SUCCEEDED)
    me.is_declared()
    closed = registry.store.close_lost(me.id, by="sweeper")
    assert sorted(closed.task_ids) == ["claimed", "dispatched", "running"]
    assert not closed.more
    for task, counted in {"claimed": False, "dispatched": True, "running": True}.items():
        attempt, recovery = registry.attempt(task), registry.recovery(task)
        assert (attempt.state, attempt.counted, attempt.reason) == (State.LOST, counted, "lost: worker")
        assert attempt.finished_at is not None
        assert (recovery.state, recovery.version, recovery.cause) == (RecoveryState.PENDING, 1, "worker")
        assert (recovery.scope, recovery.name, recovery.message_id) == (SCOPE, "app.add", "m")
        assert recovery.losses == int(counted)
        assert recovery.evidence == {"worker": "celery@a", "how": "silence", "by": "sweeper"}
        [event] = registry.events("lost", task)
        assert (event.number, event.actor, event.incarnation) == (1, "sweeper", me.id)
    assert registry.states("ended") == [State.SUCCEEDED]
    assert registry.worker(me.id).cleared


def test_attempts_are_closed_in_batches_and_the_incarnation_is_cleared_by_the_last(
    registry: Registry,
) -> None:
    me = registry.joins()
    me.record(*(me.wants(f"t{n}") for n in range(7)))
    me.is_declared()
    sizes = []
    while True:
        closed = registry.store.close_lost(me.id, by="sweeper", limit=3)
        sizes.append(len(closed.task_ids))
        assert registry.worker(me.id).cleared is not closed.more
        if not closed.more:
            break
    assert sizes == [3, 3, 1]


def test_closing_again_finds_nothing(registry: Registry) -> None:
    me = registry.joins()
    me.runs()
    me.is_lost()
    assert registry.store.close_lost(me.id, by="sweeper") == ((), False)
    assert len(registry.recoveries("t")) == 1
    assert len(registry.events("lost")) == 1


def test_what_a_goodbye_left_open_is_lost_to_the_shutdown_and_not_counted(registry: Registry) -> None:
    me = registry.joins()
    me.runs()
    assert registry.store.say_goodbye(me.fence, reason="cold shutdown")
    registry.store.close_lost(me.id, by="sweeper")
    assert (registry.recovery("t").cause, registry.recovery("t").losses) == ("shutdown", 0)
    assert not registry.attempt("t").counted


# Counting.


def _lost_again(registry: Registry, *, ran: bool = True, task: str = "t") -> Actor:
    me = registry.joins()
    if ran:
        me.runs(task, redelivered=True)
    else:
        me.claims(task, redelivered=True)
    me.is_lost()
    registry.nobody_decides()
    return me


def test_losses_are_counted_over_the_attempts_of_a_task(registry: Registry) -> None:
    for losses in (1, 2, 3):
        _lost_again(registry)
        assert registry.recovery("t", losses).losses == losses


def test_only_attempts_that_ran_are_counted(registry: Registry) -> None:
    _lost_again(registry)
    _lost_again(registry, ran=False)
    assert registry.recovery("t", 2).losses == 1
    _lost_again(registry)
    assert registry.recovery("t", 3).losses == 2


def test_another_tasks_losses_are_its_own(registry: Registry) -> None:
    _lost_again(registry)
    _lost_again(registry, task="other")
    assert registry.recovery("other").losses == 1


def test_the_loss_that_exceeds_the_budget_is_not_brought_back_by_the_gate(registry: Registry) -> None:
    for number in range(1, 5):
        me = registry.joins()
        answer = me.asks(wanted := me.wants(redelivered=True, loss_budget=3))
        assert (answer.kind, answer.number) == ("granted", number)
        me.record(start(wanted))
        me.is_lost()
        registry.nobody_decides()
    next_one = registry.joins()
    assert next_one.asks(next_one.wants(redelivered=True)).kind == "parked"
    assert registry.recovery("t", 4).losses == 4


def test_losses_are_counted_anew_after_a_person_recovered_the_task(registry: Registry) -> None:
    _lost_again(registry)
    _lost_again(registry)
    registry.decided("t", VerdictKind.QUARANTINE)
    recovery = registry.store.recover("t", by="ann", reason="fixed")
    assert recovery is not None
    assert registry.store.complete(recovery, by="courier", data={})
    _lost_again(registry)
    assert registry.recovery("t", 3).losses == 1
    _lost_again(registry)
    assert registry.recovery("t", 4).losses == 2


def test_two_open_attempts_of_a_task_count_the_same_in_one_batch_and_in_two(registry: Registry) -> None:
    for task, limit in (("t", 500), ("u", 1)):
        me = registry.joins()
        me.runs(task, "m1")
        me.runs(task, "m2", retries=1)
        me.is_declared()
        while registry.store.close_lost(me.id, by="sweeper", limit=limit).more:
            pass
        assert [r.losses for r in registry.recoveries(task)] == [1, 2]


def test_what_is_given_back_after_its_other_delivery_was_refused_is_lost_and_not_released(
    registry: Registry,
) -> None:
    """A cold shutdown: the broker redelivers what ran before its release is on record."""
    first, second = registry.joins(), registry.joins()
    running = first.runs()
    assert second.asks(second.wants(redelivered=True), renewing={first.id}).kind == "refused"
    given_back = first.finish(running, State.RELEASED, reason="shutdown")
    [answer] = first.record(given_back)
    assert answer.kind == "closed"
    attempt, recovery = registry.attempt("t"), registry.recovery("t")
    assert (attempt.state, attempt.counted) == (State.LOST, False)
    assert (recovery.state, recovery.cause, recovery.losses) == (RecoveryState.PENDING, "shutdown", 0)
    [case] = registry.take()
    assert case.attempt.copy_refused
    assert case.message.body is not None
    assert first.record(given_back) == [answer]
    assert len(registry.recoveries("t")) == 1


def test_what_is_given_back_and_still_in_the_broker_is_released(registry: Registry) -> None:
    first = registry.joins()
    assert first.finishes(first.runs(), State.RELEASED).kind == "closed"
    assert registry.states("t") == [State.RELEASED]
    assert registry.recoveries("t") == []
