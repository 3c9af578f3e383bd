"""The gate through the store: every row of its table, and claims that come again."""

from __future__ import annotations

import pytest

from crisper.core.states import OnLost, RecoveryState, State, VerdictKind
from crisper.core.verdict import DEAD_LETTERED
from tests.store.acting import KEPT, TOO_LARGE, Registry, start

# Granted.


def test_a_first_claim_is_granted(registry: Registry) -> None:
    me = registry.joins()
    wanted = me.wants(queue="high", retries=2, tag="7", acks_late=False, loss_budget=5)
    assert me.asks(wanted)[:4] == (wanted.seq, "granted", 1, "")
    attempt = registry.attempt("t")
    assert (attempt.state, attempt.incarnation, attempt.seq) == (State.CLAIMED, me.id, wanted.seq)
    assert (attempt.queue, attempt.retries, attempt.tag, attempt.acks_late) == ("high", 2, "7", False)
    assert (attempt.loss_budget, attempt.on_lost, attempt.dispatched) == (5, OnLost.RESEND, False)
    assert registry.body("t", 1) == KEPT.body


def test_claims_of_many_tasks_are_answered_in_their_order(registry: Registry) -> None:
    me = registry.joins()
    wanted = [me.wants(f"t{n % 7}", f"m{n}") for n in range(20)]
    answers = me.record(*wanted)
    assert [a.seq for a in answers] == [w.seq for w in wanted]
    assert {a.kind for a in answers} == {"granted"}
    assert [a.number for w, a in zip(wanted, answers, strict=True) if w.task_id == "t3"] == [1, 2, 3]


def test_answers_follow_the_records_whatever_their_kinds(registry: Registry) -> None:
    me = registry.joins()
    one, two = me.claims("one"), me.claims("two")
    records = [
        me.finish(one),
        me.wants("three"),
        me.notes("seen"),
        me.finish(two),
        start(one),
        me.wants("four"),
    ]
    assert [a.seq for a in me.record(*records)] == [
        r.seq for r in records if r.__class__.__name__ in _ANSWERED
    ]


_ANSWERED = ("Claim", "Finish", "ChildLost")


@pytest.mark.parametrize("state", [State.RELEASED, State.REJECTED])
def test_what_was_given_back_is_granted_as_the_next_attempt(registry: Registry, state: State) -> None:
    me, other = registry.joins(), registry.joins()
    me.ends("t", "m", state)
    assert other.asks(other.wants(redelivered=True))[1:4] == ("granted", 2, "")
    assert registry.states("t") == [state, State.CLAIMED]


def test_a_lost_attempts_message_is_granted_and_ends_its_recovery(registry: Registry) -> None:
    me, other = registry.joins(), registry.joins()
    me.runs()
    me.is_lost()
    registry.nobody_decides()
    assert other.asks(other.wants(redelivered=True))[1:4] == ("granted", 2, "")
    recovery = registry.recovery("t")
    assert (recovery.state, recovery.verdict) == (RecoveryState.DONE, VerdictKind.REDELIVERED)
    assert recovery.decided_by == "gate"
    [event] = registry.events("verdict", "t")
    assert (event.actor, event.data["verdict"]) == ("gate", "redelivered")
    assert event.data["evidence"]["claimed_by"] == other.id


def test_the_next_number_is_opened_for_a_retry_while_the_first_is_still_open(registry: Registry) -> None:
    me, other = registry.joins(), registry.joins()
    first = me.runs("t", "m1")
    retry = other.wants("t", "m2", retries=1)
    assert other.asks(retry)[1:4] == ("granted", 2, "")
    assert me.finishes(first, State.RETRIED).kind == "closed"
    assert registry.states("t") == [State.RETRIED, State.CLAIMED]


# Granted anew.


def test_an_undispatched_hold_is_given_to_the_newer_delivery(registry: Registry) -> None:
    me = registry.joins()
    stale = me.claims()
    newer = me.wants(tag="new", redelivered=True)
    assert me.asks(newer)[1:4] == ("granted", 1, "")
    attempt = registry.attempt("t")
    assert (attempt.seq, attempt.tag) == (newer.seq, "new")
    assert me.finishes(stale).kind == "late"
    assert me.finishes(newer).kind == "closed"


def test_a_copy_on_the_same_connection_does_not_take_the_hold(registry: Registry) -> None:
    me = registry.joins()
    held = me.claims()
    copy = me.wants(tag="copy", copy=True)
    assert me.asks(copy).kind == "parked"
    assert registry.attempt("t").seq == held.seq
    assert me.finishes(held).kind == "closed"
    assert me.asks(copy).kind == "refused"


def test_a_parked_older_delivery_cannot_take_the_hold_back(registry: Registry) -> None:
    me, other = registry.joins(), registry.joins()
    held = other.claims()
    older, newer = me.wants(), me.wants()
    assert me.asks(older).kind == "parked"
    other.finishes(held, State.RELEASED)
    assert me.asks(newer)[1:4] == ("granted", 2, "")
    assert me.asks(older).kind == "parked"
    assert registry.attempt("t", 2).seq == newer.seq


def test_a_dispatched_hold_is_not_given_away(registry: Registry) -> None:
    me = registry.joins()
    held = me.claims(dispatched=True)
    assert me.asks(me.wants(redelivered=True)).kind == "parked"
    assert registry.attempt("t").seq == held.seq


def test_a_delivery_to_the_worker_that_runs_the_task_is_parked_there(registry: Registry) -> None:
    me = registry.joins()
    held = me.runs()
    answer = me.asks(me.wants(redelivered=True))
    assert (answer.kind, answer.reason) == ("parked", "this worker runs it")
    assert registry.attempt("t").seq == held.seq
    assert not registry.attempt("t").copy_refused


def test_a_start_in_the_same_batch_protects_its_attempt_from_a_newer_delivery(registry: Registry) -> None:
    me = registry.joins()
    held, again = me.wants(), me.wants(redelivered=True)
    answers = me.record(held, start(held), again)
    assert [a.kind for a in answers] == ["granted", "parked"]
    assert me.finishes(held).kind == "closed"


# Parked.


@pytest.mark.parametrize("dispatched", [False, True])
def test_a_delivery_is_parked_while_an_attempt_is_claimed_elsewhere(
    registry: Registry, dispatched: bool
) -> None:
    other, me = registry.joins(), registry.joins()
    other.claims(dispatched=dispatched)
    assert me.asks(me.wants(redelivered=True), renewing={other.id}).kind == "parked"
    assert registry.states("t") == [State.CLAIMED]


def test_a_delivery_is_parked_while_its_runner_is_not_seen_to_renew(registry: Registry) -> None:
    other, me = registry.joins(), registry.joins()
    other.runs()
    assert me.asks(me.wants(redelivered=True), renewing=()).kind == "parked"
    assert not registry.attempt("t").copy_refused


def test_a_parked_delivery_is_granted_once_that_attempt_closes(registry: Registry) -> None:
    other, me = registry.joins(), registry.joins()
    held = other.runs()
    wanted = me.wants(redelivered=True)
    assert me.asks(wanted).kind == "parked"
    other.finishes(held, State.REJECTED)
    assert me.asks(wanted)[1:4] == ("granted", 2, "")


def test_a_copy_is_parked_where_the_running_attempts_message_is_not_kept(registry: Registry) -> None:
    other, me = registry.joins(), registry.joins()
    other.runs(message=TOO_LARGE)
    assert me.asks(me.wants(redelivered=True), renewing={other.id}).kind == "parked"
    assert not registry.attempt("t").copy_refused


def test_a_copy_is_parked_once_the_runner_was_declared_lost(registry: Registry) -> None:
    other, me = registry.joins(), registry.joins()
    other.runs()
    other.is_declared()
    assert me.asks(me.wants(redelivered=True), renewing={other.id}).kind == "parked"
    assert not registry.attempt("t").copy_refused


@pytest.mark.parametrize(
    "about",
    [{"on_lost": OnLost.FAIL}, {"on_lost": OnLost.HOLD}, {"loss_budget": 0}],
    ids=["fail", "hold", "over budget"],
)
def test_a_loss_that_may_not_run_again_is_parked_until_it_is_decided(
    registry: Registry, about: dict[str, object]
) -> None:
    other, me = registry.joins(), registry.joins()
    other.runs(**about)
    other.is_lost()
    assert me.asks(me.wants(redelivered=True, **about)).kind == "parked"
    assert registry.recovery("t").state is RecoveryState.PENDING


# Refused.


def test_a_copy_of_what_runs_elsewhere_under_a_valid_lease_is_refused(registry: Registry) -> None:
    other, me = registry.joins(), registry.joins()
    other.runs()
    answer = me.asks(me.wants(redelivered=True), renewing={other.id})
    assert (answer.kind, answer.number) == ("refused", 1)
    assert answer.reason.startswith("copy")
    assert registry.attempt("t").copy_refused
    [event] = registry.events("refused", "t")
    assert (event.incarnation, event.data["redelivered"]) == (me.id, True)


@pytest.mark.parametrize(
    "state", [State.SUCCEEDED, State.FAILED, State.RETRIED, State.REVOKED, State.EXPIRED]
)
def test_a_delivery_of_what_is_closed_for_good_is_refused_as_finished(
    registry: Registry, state: State
) -> None:
    other, me = registry.joins(), registry.joins()
    other.ends("t", "m", state)
    assert me.asks(me.wants())[1:4] == ("refused", 1, f"finished: {state.value}")
    assert registry.states("t") == [state]


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        (VerdictKind.QUARANTINE, "quarantined"),
        (VerdictKind.HOLD, "held"),
        (VerdictKind.FAIL, "failed by policy"),
    ],
)
def test_what_waits_for_a_person_or_failed_by_policy_is_refused(
    registry: Registry, verdict: VerdictKind, reason: str
) -> None:
    other, me = registry.joins(), registry.joins()
    other.runs()
    other.is_lost()
    registry.decided("t", verdict)
    assert me.asks(me.wants(redelivered=True))[1:4] == ("refused", 1, reason)
    assert registry.body("t", 1) == KEPT.body


def test_a_dead_letter_that_its_owner_sends_back_ends_the_hold_and_runs(registry: Registry) -> None:
    me = registry.joins()
    me.loses_child(me.runs())
    [case] = registry.take()
    evidence = {DEAD_LETTERED: True}
    assert registry.store.decide(case.recovery, VerdictKind.HOLD, "dead-lettered", evidence, by="courier")
    assert registry.recovery("t").state is RecoveryState.HELD
    again = me.claims(redelivered=True)
    assert registry.states("t") == [State.LOST, State.CLAIMED]
    assert registry.recovery("t").state is RecoveryState.DONE
    assert me.finishes(again).kind == "closed"


@pytest.mark.parametrize("verdict", [VerdictKind.QUARANTINE, VerdictKind.HOLD, VerdictKind.FAIL])
def test_what_the_registry_could_not_send_again_is_put_back(registry: Registry, verdict: VerdictKind) -> None:
    other, me = registry.joins(), registry.joins()
    other.runs(message=TOO_LARGE)
    other.is_lost()
    registry.decided("t", verdict)
    answer = me.asks(me.wants(redelivered=True, message=TOO_LARGE))
    assert (answer.kind, answer.number) == ("put_back", 0)
    assert "not kept" in answer.reason


def test_a_delivery_of_what_was_revoked_waits_until_its_caller_is_told_and_is_refused(
    registry: Registry,
) -> None:
    other, me = registry.joins(), registry.joins()
    other.runs()
    other.is_lost()
    decided = registry.decided("t", VerdictKind.REVOKED)
    assert me.asks(me.wants(redelivered=True)).kind == "parked"
    assert registry.store.complete(decided, by="courier", data={})
    assert me.asks(me.wants(redelivered=True))[1:4] == ("refused", 1, "finished: revoked")


@pytest.mark.parametrize("verdict", [VerdictKind.SETTLED, VerdictKind.EXPIRED])
def test_a_delivery_of_what_was_found_over_is_refused(registry: Registry, verdict: VerdictKind) -> None:
    other, me = registry.joins(), registry.joins()
    other.runs()
    other.is_lost()
    registry.decided("t", verdict)
    assert me.asks(me.wants(redelivered=True))[1:4] == ("refused", 1, f"finished: {verdict.value}")


def test_a_delivery_of_what_was_discarded_is_refused(registry: Registry) -> None:
    other, me = registry.joins(), registry.joins()
    other.runs()
    other.is_lost()
    registry.decided("t", VerdictKind.QUARANTINE)
    assert registry.store.discard("t", by="ann", reason="no use")
    assert me.asks(me.wants(redelivered=True)).kind == "refused"


# Which message is it?


def test_an_unidentified_message_published_again_on_purpose_runs_again(registry: Registry) -> None:
    me = registry.joins()
    me.ends("t", "looks", State.SUCCEEDED, identified=False)
    assert me.asks(me.wants("t", "looks", identified=False))[1:4] == ("granted", 2, "")


def test_an_unidentified_message_that_the_broker_marks_as_redelivered_is_a_copy(registry: Registry) -> None:
    me = registry.joins()
    me.ends("t", "looks", State.SUCCEEDED, identified=False)
    again = me.wants("t", "looks", identified=False, redelivered=True)
    assert me.asks(again)[1:4] == ("refused", 1, "finished: succeeded")


def test_another_message_of_a_finished_task_runs(registry: Registry) -> None:
    me = registry.joins()
    me.ends("t", "m1", State.SUCCEEDED)
    assert me.asks(me.wants("t", "m2"))[1:4] == ("granted", 2, "")
    assert me.asks(me.wants("t", "m1", redelivered=True)).kind == "refused"


# The gate overtakes a recovery.


@pytest.mark.parametrize(
    ("verdict", "state"),
    [
        (VerdictKind.AWAIT_REDELIVERY, RecoveryState.WAITING),
        (VerdictKind.RESEND, RecoveryState.DECIDED),
        (VerdictKind.HAND_BACK, RecoveryState.DECIDED),
    ],
)
def test_a_message_that_comes_by_itself_ends_its_recovery(
    registry: Registry, verdict: VerdictKind, state: RecoveryState
) -> None:
    other, me = registry.joins(), registry.joins()
    other.runs()
    other.is_lost()
    decided = registry.decided("t", verdict)
    assert decided.state is state
    assert me.asks(me.wants(redelivered=True))[1:4] == ("granted", 2, "")
    after = registry.recovery("t")
    assert (after.state, after.verdict, after.decided_by) == (RecoveryState.DONE, verdict, "courier")
    assert not registry.store.complete(decided, by="courier", data={})
    assert not registry.store.give_up_case(decided, by="courier", why="late", due_in_ms=0)
    assert registry.recovery("t") == after


def test_a_courier_cannot_decide_what_the_gate_has_ended(registry: Registry) -> None:
    other, me = registry.joins(), registry.joins()
    other.runs()
    other.is_lost()
    registry.nobody_decides()
    [case] = registry.take()
    assert me.asks(me.wants(redelivered=True)).kind == "granted"
    assert registry.store.decide(case.recovery, VerdictKind.FAIL, "stale", {}, by="courier") is None
    assert registry.recovery("t").verdict is VerdictKind.REDELIVERED


def test_a_decision_is_carried_out_where_no_message_came(registry: Registry) -> None:
    other = registry.joins()
    other.runs()
    other.is_lost()
    decided = registry.decided("t", VerdictKind.RESEND)
    assert registry.store.complete(decided, by="courier", data={"to": "celery"})
    assert registry.recovery("t").state is RecoveryState.DONE


def test_the_message_that_was_sent_again_is_granted(registry: Registry) -> None:
    other, me = registry.joins(), registry.joins()
    other.runs()
    other.is_lost()
    registry.store.complete(registry.decided("t", VerdictKind.RESEND), by="courier", data={})
    assert me.asks(me.wants())[1:4] == ("granted", 2, "")
    assert other.id != me.id


def test_a_lost_attempts_message_moves_to_its_successor(registry: Registry) -> None:
    other, me = registry.joins(), registry.joins()
    other.runs()
    other.is_lost()
    registry.nobody_decides()
    assert registry.body("t", 1) == KEPT.body
    me.claims(redelivered=True)
    assert (registry.body("t", 1), registry.body("t", 2)) == (None, KEPT.body)


def test_no_message_of_another_task_is_forgotten_that_bears_the_same_name(registry: Registry) -> None:
    """Headers are copied from task to task, ours too, where nobody names messages."""
    other, me = registry.joins(), registry.joins()
    for task, message in (("a", "m1"), ("a", "m2"), ("b", "m2")):
        other.claims(task, message)
    other.is_lost()
    answers = me.record(*(me.wants(*one, redelivered=True) for one in (("a", "m1"), ("b", "m2"))))
    assert [one.kind for one in answers] == ["granted", "granted"]
    assert [registry.body("a", number) for number in (1, 2, 3)] == [None, KEPT.body, KEPT.body]
    assert [registry.body("b", number) for number in (1, 2)] == [None, KEPT.body]


def test_a_lost_attempts_message_stays_if_its_successors_is_not_kept(registry: Registry) -> None:
    other, me = registry.joins(), registry.joins()
    other.runs()
    other.is_lost()
    registry.nobody_decides()
    me.claims(redelivered=True, message=TOO_LARGE)
    assert (registry.body("t", 1), registry.body("t", 2)) == (KEPT.body, None)


# Again.


def test_a_repeated_claim_is_answered_as_it_was(registry: Registry) -> None:
    me = registry.joins()
    wanted = me.wants()
    assert me.asks(wanted) == me.asks(wanted)
    assert registry.states("t") == [State.CLAIMED]


def test_a_claim_is_answered_alike_however_often_it_stands_in_a_batch(registry: Registry) -> None:
    me = registry.joins()
    answers = me.record(*[me.wants()] * 9)
    assert [one.kind for one in answers] == ["granted"] * 9
    assert registry.states("t") == [State.CLAIMED]


def test_a_repeated_claim_is_granted_still_after_its_attempt_closed(registry: Registry) -> None:
    me = registry.joins()
    wanted = me.ends("t", "m", State.SUCCEEDED)
    assert me.asks(wanted)[:4] == (wanted.seq, "granted", 1, "")
    assert registry.states("t") == [State.SUCCEEDED]


def test_a_repeated_refusal_stays_a_refusal_though_the_facts_have_moved(registry: Registry) -> None:
    other, me = registry.joins(), registry.joins()
    other.runs()
    copy = me.wants(redelivered=True)
    first = me.asks(copy, renewing={other.id})
    assert first.kind == "refused"
    other.is_lost()
    assert me.asks(copy) == first
    assert registry.states("t") == [State.LOST]
    assert len(registry.events("refused", "t")) == 1


def test_a_whole_batch_may_be_repeated(registry: Registry) -> None:
    me = registry.joins()
    one, two = me.wants("one"), me.wants("two")
    batch = [one, start(one), two, me.finish(one), me.wants("one", "retry", retries=1), me.notes("seen")]
    first = me.record(*batch)
    before = [registry.attempts(task) for task in ("one", "two")], registry.all_events()
    assert me.record(*batch) == first
    assert ([registry.attempts(task) for task in ("one", "two")], registry.all_events()) == before


def test_a_record_that_is_in_its_batch_twice_is_answered_twice_in_its_places(registry: Registry) -> None:
    me = registry.joins()
    wanted = me.wants()
    finish = me.finish(wanted)
    kinds = [a.kind for a in me.record(wanted, finish, wanted, finish)]
    assert kinds == ["granted", "closed", "granted", "closed"]


def test_a_lost_body_is_not_run_again_before_its_result_was_asked_for(registry: Registry) -> None:
    other, me = registry.joins(), registry.joins()
    other.runs()
    other.is_lost()
    copy = me.wants(redelivered=True)
    assert me.asks(copy).kind == "parked"
    registry.decided("t", VerdictKind.SETTLED)
    assert me.asks(copy)[1:4] == ("refused", 1, "finished: settled")
