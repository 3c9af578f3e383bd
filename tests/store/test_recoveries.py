"""Recoveries: taken by one courier at a time, decided and carried out by compare-and-set."""

from __future__ import annotations

import pytest

from crisper.core.states import RECOVERY_MOVES, VERDICT_MOVES, RecoveryState, State, VerdictKind, may_decide
from crisper.core.verdict import Judgement, Verdict
from crisper.store.memory.recoveries import CASE_MS
from tests.store.acting import KEPT, SCOPE, TOO_LARGE, Registry


def lose(registry: Registry, *tasks: str, **about: object) -> None:
    me = registry.joins()
    for task in tasks or ("t",):
        me.runs(task, **about)
    me.is_lost()


# Taking.


def test_a_case_holds_all_that_the_registry_knows(registry: Registry) -> None:
    lose(registry, retries=1)
    [case] = registry.take("courier-1")
    assert (case.recovery.state, case.recovery.courier) == (RecoveryState.PENDING, "courier-1")
    assert (case.attempt.state, case.attempt.retries, case.attempt.ran) == (State.LOST, 1, True)
    assert case.message == KEPT
    assert (case.superseded, case.finished_before, case.overdue) == (False, False, False)
    assert registry.store.case("t", 1) == case
    assert registry.store.case("t", 2) is None


def test_a_message_that_was_not_kept_says_why(registry: Registry) -> None:
    lose(registry, message=TOO_LARGE)
    [case] = registry.take()
    assert case.message == TOO_LARGE
    assert case.attempt.why_not_kept == TOO_LARGE.why_not


def test_a_case_that_is_taken_is_not_taken_twice(registry: Registry) -> None:
    lose(registry)
    assert len(registry.take("one")) == 1
    assert registry.take("two") == []
    assert registry.take("one") == []


def test_a_case_is_taken_again_when_its_courier_took_too_long(registry: Registry) -> None:
    lose(registry)
    [first] = registry.take("slow")
    registry.later(CASE_MS + 1)
    [second] = registry.take("other")
    assert second.recovery.courier == "other"
    assert registry.store.decide(first.recovery, VerdictKind.RESEND, "slow", {}, by="slow") is None
    assert registry.store.decide(second.recovery, VerdictKind.RESEND, "ok", {}, by="other") is not None


def test_a_case_is_not_taken_one_second_earlier(registry: Registry) -> None:
    lose(registry)
    registry.take("slow")
    registry.later(CASE_MS - 5_000)
    assert registry.take("other") == []


def test_cases_whose_list_was_lost_on_the_way_are_given_again_to_who_asks_for_them(
    registry: Registry,
) -> None:
    lose(registry, "one", "two")
    awaited, unheard = registry.take("me")
    how = {"by": "me", "due_in_ms": 30_000}
    assert registry.store.decide(awaited.recovery, VerdictKind.AWAIT_REDELIVERY, "x", {}, **how)
    assert registry.take("me") == []
    assert registry.store.take_cases("other", SCOPE, limit=9, again=True) == []
    [given] = registry.store.take_cases("me", SCOPE, limit=9, again=True)
    assert given.attempt == unheard.attempt


@pytest.mark.parametrize("decided", [False, True])
def test_a_dead_couriers_case_is_taken_at_once(registry: Registry, decided: bool) -> None:
    courier = registry.joins()
    lose(registry)
    [case] = registry.take(courier.id)
    if decided:
        assert registry.store.decide(case.recovery, VerdictKind.RESEND, "x", {}, by="c") is not None
    assert registry.take("other") == []
    courier.is_lost()
    [stolen] = registry.take("other")
    assert stolen.recovery.state is (RecoveryState.DECIDED if decided else RecoveryState.PENDING)
    assert stolen.recovery.courier == "other"
    assert registry.take("third") == []


def test_a_dead_courier_does_not_shorten_what_is_awaited(registry: Registry) -> None:
    courier = registry.joins()
    lose(registry)
    [case] = registry.take(courier.id)
    registry.store.decide(case.recovery, VerdictKind.AWAIT_REDELIVERY, "x", {}, by="c", due_in_ms=30_000)
    courier.is_lost()
    assert registry.take("other") == []


def test_a_courier_takes_only_its_own_scope(registry: Registry) -> None:
    me = registry.joins(scope="elsewhere")
    me.runs()
    me.is_lost()
    assert registry.take("courier") == []
    assert len(registry.take("courier", scope="elsewhere")) == 1


def test_cases_are_taken_oldest_first_and_the_rest_by_the_next(registry: Registry) -> None:
    lose(registry, *(f"t{n}" for n in range(5)))
    first = [c.recovery.task_id for c in registry.take("one", limit=3)]
    second = [c.recovery.task_id for c in registry.take("two", limit=3)]
    assert (len(first), len(second)) == (3, 2)
    assert sorted(first + second) == [f"t{n}" for n in range(5)]


def test_nothing_awaited_is_taken_before_it_is_due(registry: Registry) -> None:
    lose(registry)
    registry.decided("t", VerdictKind.AWAIT_REDELIVERY, due_in_ms=30_000)
    registry.later(25_000)
    assert registry.take() == []


def test_what_was_awaited_in_vain_is_overdue(registry: Registry) -> None:
    lose(registry)
    registry.decided("t", VerdictKind.AWAIT_REDELIVERY, due_in_ms=30_000)
    registry.later(30_001)
    [case] = registry.take()
    assert case.overdue
    assert case.recovery.state is RecoveryState.WAITING
    assert registry.store.decide(case.recovery, VerdictKind.RESEND, "overdue", {}, by="c") is not None


@pytest.mark.parametrize("verdict", [VerdictKind.QUARANTINE, VerdictKind.HOLD, VerdictKind.SETTLED])
def test_what_waits_for_a_person_or_is_over_is_no_couriers_case(
    registry: Registry, verdict: VerdictKind
) -> None:
    lose(registry)
    registry.decided("t", verdict)
    registry.later(10 * CASE_MS)
    assert registry.take() == []


def test_a_retry_that_the_attempt_had_sent_supersedes_it(registry: Registry) -> None:
    me, other = registry.joins(), registry.joins()
    me.runs("t", "m1")
    other.claims("t", "m2", retries=1)
    me.is_lost()
    [case] = registry.take()
    assert case.superseded


def test_another_message_of_the_same_task_does_not_supersede(registry: Registry) -> None:
    me, other = registry.joins(), registry.joins()
    me.runs("t", "m1")
    other.claims("t", "m2")
    me.is_lost()
    [case] = registry.take()
    assert not case.superseded


@pytest.mark.parametrize(
    ("state", "before"),
    [(State.SUCCEEDED, True), (State.FAILED, True), (State.REVOKED, True), (State.RELEASED, False)],
)
def test_an_earlier_attempts_result_is_told_from_this_ones(
    registry: Registry, state: State, before: bool
) -> None:
    me = registry.joins()
    me.ends("t", "m1", state)
    me.runs("t", "m2")
    me.is_lost()
    [case] = registry.take()
    assert case.finished_before is before


def test_a_failure_stored_by_policy_is_an_earlier_result_too(registry: Registry) -> None:
    lose(registry)
    registry.store.complete(registry.decided("t", VerdictKind.FAIL), by="c", data={})
    registry.store.complete(registry.store.recover("t", by="ann", reason="again"), by="c", data={})
    lose(registry)
    [case] = registry.take()
    assert (case.attempt.number, case.finished_before) == (2, True)


# Deciding and carrying out.


def test_a_verdict_is_on_record_with_its_evidence_before_it_is_carried_out(registry: Registry) -> None:
    lose(registry)
    [case] = registry.take()
    decided = registry.store.decide(
        case.recovery, VerdictKind.HAND_BACK, "the broker holds it", {"in_broker": "unacked"}, by="courier"
    )
    assert decided == registry.recovery("t")
    assert (decided.state, decided.verdict) == (RecoveryState.DECIDED, VerdictKind.HAND_BACK)
    assert (decided.reason, decided.decided_by) == ("the broker holds it", "courier")
    assert decided.evidence == {"in_broker": "unacked"}
    assert decided.decided_at is not None
    [event] = registry.events("verdict", "t")
    assert (event.number, event.actor) == (1, "courier")
    assert event.data == {
        "verdict": "hand_back",
        "reason": "the broker holds it",
        "evidence": {"in_broker": "unacked"},
    }


def test_only_one_decides(registry: Registry) -> None:
    lose(registry)
    [case] = registry.take()
    assert registry.store.decide(case.recovery, VerdictKind.RESEND, "one", {}, by="one") is not None
    assert registry.store.decide(case.recovery, VerdictKind.FAIL, "two", {}, by="two") is None
    assert registry.recovery("t").verdict is VerdictKind.RESEND
    assert len(registry.events("verdict")) == 1


def test_a_verdict_whose_answer_was_lost_is_told_again_to_who_gave_it(registry: Registry) -> None:
    lose(registry)
    [case] = registry.take()
    decided = registry.store.decide(case.recovery, VerdictKind.RESEND, "why", {}, by="one")
    assert decided is not None
    assert registry.store.decide(case.recovery, VerdictKind.RESEND, "why", {}, by="one") == decided
    assert registry.store.decide(case.recovery, VerdictKind.RESEND, "why", {}, by="two") is None
    assert registry.store.decide(case.recovery, VerdictKind.HOLD, "why", {}, by="one") is None
    assert registry.store.complete(decided, by="one", data={})
    assert registry.store.decide(case.recovery, VerdictKind.RESEND, "why", {}, by="one") is None
    assert len(registry.events("verdict")) == 1


def test_only_one_completes(registry: Registry) -> None:
    lose(registry)
    decided = registry.decided("t", VerdictKind.RESEND)
    assert registry.store.complete(decided, by="one", data={"to": "celery"})
    assert not registry.store.complete(decided, by="two", data={})
    recovery = registry.recovery("t")
    assert recovery.state is RecoveryState.DONE
    assert recovery.sent_at is not None
    [event] = registry.events("recovered", "t")
    assert (event.actor, event.data) == ("one", {"action": "resend", "to": "celery"})


def test_what_is_not_decided_cannot_be_completed(registry: Registry) -> None:
    lose(registry)
    [case] = registry.take()
    assert not registry.store.complete(case.recovery, by="c", data={})
    assert registry.recovery("t").state is RecoveryState.PENDING


def test_a_lost_message_stays_while_it_may_be_sent_again(registry: Registry) -> None:
    kept = VerdictKind.RESEND, VerdictKind.QUARANTINE, VerdictKind.HOLD, VerdictKind.FAIL, VerdictKind.REVOKED
    for verdict in kept:
        lose(registry, verdict.value)
        registry.decided(verdict.value, verdict)
        assert registry.body(verdict.value, 1) == KEPT.body


@pytest.mark.parametrize("verdict", [VerdictKind.SETTLED, VerdictKind.EXPIRED])
def test_a_lost_message_is_deleted_when_its_task_turns_out_to_be_over(
    registry: Registry, verdict: VerdictKind
) -> None:
    lose(registry)
    registry.decided("t", verdict)
    assert registry.body("t", 1) is None


def test_what_a_courier_gives_up_is_pending_again_and_judged_anew(registry: Registry) -> None:
    lose(registry)
    decided = registry.decided("t", VerdictKind.HAND_BACK)
    assert registry.store.give_up_case(decided, by="courier", why="its entry moved", due_in_ms=0)
    recovery = registry.recovery("t")
    assert (recovery.state, recovery.verdict, recovery.decided_at) == (RecoveryState.PENDING, None, None)
    [event] = registry.events("recovery_delayed", "t")
    assert event.data == {"why": "its entry moved"}
    [case] = registry.take("other")
    assert registry.store.decide(case.recovery, VerdictKind.RESEND, "gone", {}, by="other") is not None
    assert not registry.store.complete(decided, by="courier", data={})


def test_a_failure_that_could_not_be_told_at_once_stays_a_failure_with_its_message_kept(
    registry: Registry,
) -> None:
    """Its `TaskLost` may be stored already: judged anew, it would be settled by what we stored ourselves."""
    lose(registry)
    decided = registry.decided("t", VerdictKind.FAIL)
    assert registry.store.give_up_case(decided, by="courier", why="broker down", due_in_ms=0)
    registry.later(1)
    [case] = registry.take("other")
    assert (case.recovery.state, case.recovery.verdict) == (RecoveryState.DECIDED, VerdictKind.FAIL)
    assert case.message.body is not None
    assert registry.store.complete(case.recovery, by="other", data={})


def test_what_is_given_up_waits_until_it_is_due(registry: Registry) -> None:
    lose(registry)
    [case] = registry.take()
    assert registry.store.give_up_case(case.recovery, by="c", why="broker down", due_in_ms=8_000)
    assert registry.take() == []
    registry.later(8_001)
    assert len(registry.take()) == 1


def test_giving_up_loses_against_whoever_decided_meanwhile(registry: Registry) -> None:
    lose(registry)
    [case] = registry.take()
    assert registry.store.decide(case.recovery, VerdictKind.RESEND, "x", {}, by="c") is not None
    assert not registry.store.give_up_case(case.recovery, by="c", why="broker down", due_in_ms=0)
    assert registry.recovery("t").state is RecoveryState.DECIDED


def test_what_is_awaited_stays_overdue_when_a_courier_gives_it_up(registry: Registry) -> None:
    lose(registry)
    registry.decided("t", VerdictKind.AWAIT_REDELIVERY, due_in_ms=0)
    registry.later(1)
    [case] = registry.take()
    assert registry.store.give_up_case(case.recovery, by="c", why="broker down", due_in_ms=0)
    registry.later(1)
    [again] = registry.take()
    assert again.overdue


def test_what_a_person_decided_is_not_a_couriers_to_take_back(registry: Registry) -> None:
    lose(registry)
    registry.decided("t", VerdictKind.QUARANTINE)
    recovery = registry.store.recover("t", by="ann", reason="fixed")
    assert registry.store.give_up_case(recovery, by="c", why="broker down", due_in_ms=0)
    registry.later(1)
    [case] = registry.take()
    assert (case.recovery.state, case.recovery.verdict) == (RecoveryState.DECIDED, VerdictKind.RECOVER)
    assert case.recovery.decided_by == "ann"


# A person's verbs.


@pytest.mark.parametrize("verdict", [VerdictKind.QUARANTINE, VerdictKind.HOLD])
def test_a_person_recovers_what_waits_for_one(registry: Registry, verdict: VerdictKind) -> None:
    lose(registry)
    registry.decided("t", verdict)
    recovery = registry.store.recover("t", by="ann", reason="fixed")
    assert (recovery.state, recovery.verdict, recovery.decided_by) == (
        RecoveryState.DECIDED,
        VerdictKind.RECOVER,
        "ann",
    )
    assert registry.store.recover("t", by="bob", reason="me too") is None
    assert registry.store.complete(recovery, by="courier", data={})
    me = registry.joins()
    assert me.asks(me.wants())[1:4] == ("granted", 2, "")


def test_a_person_recovers_what_policy_failed(registry: Registry) -> None:
    lose(registry)
    decided = registry.decided("t", VerdictKind.FAIL)
    assert registry.store.recover("t", by="ann", reason="early") is None
    assert registry.store.complete(decided, by="c", data={})
    assert registry.store.recover("t", by="ann", reason="again") is not None


def test_a_person_recovers_what_was_discarded(registry: Registry) -> None:
    lose(registry)
    registry.decided("t", VerdictKind.QUARANTINE)
    assert registry.store.discard("t", by="ann", reason="no use")
    assert registry.body("t", 1) == KEPT.body
    assert registry.store.recover("t", by="ann", reason="of use") is not None


def test_nothing_is_recovered_whose_message_is_not_kept(registry: Registry) -> None:
    lose(registry, message=TOO_LARGE)
    registry.decided("t", VerdictKind.QUARANTINE)
    assert registry.store.recover("t", by="ann", reason="fixed") is None


@pytest.mark.parametrize("state", [State.CLAIMED, State.RUNNING, State.SUCCEEDED, State.FAILED])
def test_nothing_is_recovered_or_discarded_that_was_not_lost(registry: Registry, state: State) -> None:
    me = registry.joins()
    if state is State.CLAIMED:
        me.claims()
    elif state is State.RUNNING:
        me.runs()
    else:
        me.ends("t", "m", state)
    assert registry.store.recover("t", by="ann", reason="x") is None
    assert not registry.store.discard("t", by="ann", reason="x")
    assert registry.states("t") == [state]


def test_nothing_is_recovered_whose_next_attempt_exists(registry: Registry) -> None:
    lose(registry)
    registry.store.complete(registry.decided("t", VerdictKind.FAIL), by="c", data={})
    me = registry.joins()
    me.claims("t", "published-again")
    assert registry.store.recover("t", by="ann", reason="x") is None


@pytest.mark.parametrize("verdict", [VerdictKind.RESEND, VerdictKind.FAIL, VerdictKind.SETTLED])
def test_only_what_waits_for_a_person_is_discarded(registry: Registry, verdict: VerdictKind) -> None:
    lose(registry)
    registry.decided("t", verdict)
    assert not registry.store.discard("t", by="ann", reason="x")
    assert registry.recovery("t").verdict is verdict


def test_an_unknown_task_is_neither_recovered_nor_discarded(registry: Registry) -> None:
    assert registry.store.recover("nothing", by="ann", reason="x") is None
    assert not registry.store.discard("nothing", by="ann", reason="x")


# The table of moves.


def _brought(registry: Registry, task: str, state: RecoveryState):  # type: ignore[no-untyped-def]
    lose(registry, task)
    if state is RecoveryState.PENDING:
        return next(c.recovery for c in registry.take() if c.recovery.task_id == task)
    verdict = {
        RecoveryState.DECIDED: VerdictKind.RESEND,
        RecoveryState.WAITING: VerdictKind.AWAIT_REDELIVERY,
        RecoveryState.QUARANTINED: VerdictKind.QUARANTINE,
        RecoveryState.HELD: VerdictKind.HOLD,
        RecoveryState.DONE: VerdictKind.FAIL,
    }[state]
    recovery = registry.decided(task, verdict)
    if state is RecoveryState.DONE:
        assert registry.store.complete(recovery, by="c", data={})
    assert registry.recovery(task).state is state
    return registry.recovery(task)


@pytest.mark.parametrize("before", list(RecoveryState))
def test_a_recovery_moves_only_along_the_table(registry: Registry, before: RecoveryState) -> None:
    """Every verb that could move it is tried from every state; what moved is in the table, and all of it."""
    reached = set()

    def note_move(task: str) -> None:
        now = registry.recovery(task).state
        if now is not before:
            reached.add(now)

    for verdict in VerdictKind:
        task = f"decided-{verdict}"
        recovery = _brought(registry, task, before)
        if may_decide(before, verdict):
            assert registry.store.decide(recovery, verdict, "x", {}, by="c") is not None
            assert registry.recovery(task).state is VERDICT_MOVES[verdict]
        else:
            with pytest.raises(ValueError, match="cannot be decided"):
                registry.store.decide(recovery, verdict, "x", {}, by="c")
            assert registry.recovery(task) == recovery
        note_move(task)
    for verb in ("complete", "give_up", "recover", "discard", "claim"):
        recovery = _brought(registry, verb, before)
        if verb == "complete":
            registry.store.complete(recovery, by="c", data={})
        elif verb == "give_up":
            registry.store.give_up_case(recovery, by="c", why="x", due_in_ms=0)
        elif verb == "claim":
            me = registry.joins()
            me.asks(me.wants(verb, redelivered=True))
        else:
            getattr(registry.store, verb)(verb, by="ann", reason="x")
        note_move(verb)
    assert reached == RECOVERY_MOVES[before]


def test_verdicts_decided_together_win_or_lose_each_by_itself(registry: Registry) -> None:
    for task in ("one", "two", "three"):
        lose(registry, task)
    cases = {case.attempt.task_id: case for case in registry.take()}
    ours = [Judgement(cases[t].recovery, Verdict(VerdictKind.RESEND, "why", {"t": t})) for t in cases]
    assert registry.store.decide(cases["two"].recovery, VerdictKind.HOLD, "first", {}, by="other")
    decided = dict(zip(cases, registry.store.decide_all(ours, by="us"), strict=True))
    assert decided["two"] is None
    assert registry.recovery("two").verdict is VerdictKind.HOLD
    for task in ("one", "three"):
        assert decided[task] == registry.recovery(task)
        [verdict] = registry.events("verdict", task)
        assert (verdict.actor, verdict.data["evidence"]) == ("us", {"t": task})


def test_what_was_carried_out_together_is_completed_each_by_itself(registry: Registry) -> None:
    for task in ("one", "two"):
        lose(registry, task)
    judged = [Judgement(c.recovery, Verdict(VerdictKind.RESEND, "why", {})) for c in registry.take()]
    decided = [one for one in registry.store.decide_all(judged, by="us") if one]
    assert registry.store.complete(decided[1], by="other", data={})
    assert registry.store.complete_all(decided, by="us") == [True, False]
    assert [event.data["reason"] for event in registry.events("recovered", decided[0].task_id)] == ["why"]
    assert [event.actor for event in registry.events("recovered", decided[1].task_id)] == ["other"]
