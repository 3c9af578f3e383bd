"""The gate's table. Acknowledging is destroying: REFUSE only where the task cannot be lost by it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from crisper.core.gate import UNDECIDED_MS, Latest, Owner, Past, Ruling, is_left_over, rule
from crisper.core.model import Entry
from crisper.core.states import (
    BRINGS_BACK,
    CLOSED,
    CLOSED_FOR_GOOD,
    MAY_COME_AGAIN,
    OPEN,
    VERDICT_MOVES,
    WAITS_FOR_A_PERSON,
    OnLost,
    RecoveryState,
    State,
    VerdictKind,
)


def latest(state: State, **about: Any) -> Latest:
    return Latest(
        **{
            "number": 1,
            "state": state,
            "owner": Owner.UNJUDGED,
            "dispatched": False,
            "kept": True,
            "on_lost": OnLost.RESEND,
            "ran": True,
            "losses": 1,
            "loss_budget": 3,
            **about,
        }
    )


def ruling(
    of: Latest | None, *, redelivered: bool = True, identified: bool = True, newer: bool = True
) -> Ruling:
    return rule(of, redelivered=redelivered, identified=identified, newer=newer).ruling


def test_a_message_that_nobody_claimed_is_granted() -> None:
    assert ruling(None) is Ruling.GRANT


@pytest.mark.parametrize("state", sorted(MAY_COME_AGAIN))
def test_what_may_come_again_is_granted(state: State) -> None:
    assert ruling(latest(state, ran=False)) is Ruling.GRANT


@pytest.mark.parametrize("state", sorted(CLOSED_FOR_GOOD))
@pytest.mark.parametrize(("redelivered", "identified"), [(True, True), (True, False), (False, True)])
def test_a_copy_of_what_is_closed_for_good_is_refused(
    state: State, redelivered: bool, identified: bool
) -> None:
    assert ruling(latest(state), redelivered=redelivered, identified=identified) is Ruling.REFUSE


@pytest.mark.parametrize("state", sorted(CLOSED_FOR_GOOD))
def test_what_nobody_calls_a_copy_is_granted(state: State) -> None:
    assert ruling(latest(state), redelivered=False, identified=False) is Ruling.GRANT


def test_an_undispatched_hold_of_ones_own_goes_to_the_newer_delivery() -> None:
    assert ruling(latest(State.CLAIMED, owner=Owner.SELF)) is Ruling.REGRANT


def test_an_undispatched_hold_of_ones_own_does_not_go_to_an_older_delivery() -> None:
    assert ruling(latest(State.CLAIMED, owner=Owner.SELF), newer=False) is Ruling.PARK


@pytest.mark.parametrize(("state", "dispatched"), [(State.CLAIMED, True), (State.RUNNING, True)])
def test_what_runs_here_is_parked_for_its_worker_to_adopt(state: State, dispatched: bool) -> None:
    assert ruling(latest(state, owner=Owner.SELF, dispatched=dispatched)) is Ruling.PARK


def test_a_copy_is_refused_while_it_runs_elsewhere_renewing_and_kept() -> None:
    assert ruling(latest(State.RUNNING, owner=Owner.RENEWING)) is Ruling.REFUSE


@pytest.mark.parametrize(
    "of",
    [
        latest(State.RUNNING, owner=Owner.UNJUDGED),
        latest(State.RUNNING, owner=Owner.RENEWING, kept=False),
        latest(State.CLAIMED, owner=Owner.RENEWING),
        latest(State.CLAIMED, owner=Owner.RENEWING, dispatched=True),
        latest(State.CLAIMED, owner=Owner.UNJUDGED),
    ],
    ids=["not renewing", "not kept", "not running", "dispatched only", "not judged"],
)
def test_a_copy_is_parked_where_one_of_the_three_is_missing(of: Latest) -> None:
    assert ruling(of) is Ruling.PARK


# Lost.


@pytest.mark.parametrize("on_lost", OnLost)
@pytest.mark.parametrize("recovery", [None, RecoveryState.PENDING])
def test_a_body_that_may_have_ended_waits_for_the_verdict(
    recovery: RecoveryState | None, on_lost: OnLost
) -> None:
    of = latest(State.LOST, recovery=recovery, on_lost=on_lost, undecided_ms=UNDECIDED_MS - 1)
    assert ruling(of) is Ruling.PARK


def test_a_loss_that_nobody_decides_is_not_waited_for_for_ever() -> None:
    assert ruling(undecided()) is Ruling.GRANT


@pytest.mark.parametrize("on_lost", [OnLost.FAIL, OnLost.HOLD])
def test_a_loss_that_policy_may_end_is_parked_until_it_is_decided(on_lost: OnLost) -> None:
    assert ruling(undecided(on_lost=on_lost)) is Ruling.PARK


def test_an_undecided_loss_within_its_budget_is_granted_and_the_next_is_parked() -> None:
    assert ruling(undecided(losses=3)) is Ruling.GRANT
    assert ruling(undecided(losses=4)) is Ruling.PARK


def undecided(**about: Any) -> Latest:
    return latest(State.LOST, recovery=RecoveryState.PENDING, undecided_ms=UNDECIDED_MS, **about)


@pytest.mark.parametrize("on_lost", OnLost)
@pytest.mark.parametrize("recovery", [None, RecoveryState.PENDING])
def test_what_never_ran_comes_back_at_once_whatever_policy_says(
    recovery: RecoveryState | None, on_lost: OnLost
) -> None:
    assert ruling(latest(State.LOST, recovery=recovery, on_lost=on_lost, ran=False)) is Ruling.GRANT


@pytest.mark.parametrize("verdict", sorted(BRINGS_BACK))
def test_what_is_meant_to_run_again_is_granted(verdict: VerdictKind) -> None:
    for recovery in (VERDICT_MOVES[verdict], RecoveryState.DONE):
        assert ruling(latest(State.LOST, recovery=recovery, verdict=verdict)) is Ruling.GRANT


def test_a_dead_letter_that_its_owner_sends_back_is_granted() -> None:
    held = latest(State.LOST, recovery=RecoveryState.HELD, verdict=VerdictKind.HOLD, dead_lettered=True)
    assert ruling(held) is Ruling.GRANT


@pytest.mark.parametrize("recovery", sorted(WAITS_FOR_A_PERSON))
@pytest.mark.parametrize("verdict", [VerdictKind.QUARANTINE, VerdictKind.HOLD])
def test_what_waits_for_a_person_is_refused_only_if_it_is_kept(
    recovery: RecoveryState, verdict: VerdictKind
) -> None:
    about = {"recovery": recovery, "verdict": verdict}
    assert ruling(latest(State.LOST, **about)) is Ruling.REFUSE
    assert ruling(latest(State.LOST, kept=False, **about)) is Ruling.PUT_BACK


@pytest.mark.parametrize("recovery", [RecoveryState.DECIDED, RecoveryState.DONE])
def test_what_policy_failed_is_refused_only_if_it_is_kept(recovery: RecoveryState) -> None:
    about = {"recovery": recovery, "verdict": VerdictKind.FAIL}
    assert ruling(latest(State.LOST, **about)) is Ruling.REFUSE
    assert ruling(latest(State.LOST, kept=False, **about)) is Ruling.PUT_BACK


@pytest.mark.parametrize(
    "verdict", [VerdictKind.SETTLED, VerdictKind.EXPIRED, VerdictKind.REVOKED, VerdictKind.DISCARD]
)
def test_what_was_found_over_is_refused(verdict: VerdictKind) -> None:
    assert ruling(latest(State.LOST, recovery=RecoveryState.DONE, verdict=verdict)) is Ruling.REFUSE


# Everything.


def _everything() -> itertools.product[Any]:
    return itertools.product(
        State, Owner, (False, True), (False, True), OnLost, (False, True), (1, 4),
        (None, *RecoveryState), (None, *VerdictKind),
    )  # fmt: skip


def test_nothing_is_refused_by_which_a_task_could_be_lost() -> None:
    """I9, over every combination of facts there is."""
    for state, owner, dispatched, kept, on_lost, ran, losses, recovery, verdict in _everything():
        of = latest(
            state, owner=owner, dispatched=dispatched, kept=kept, on_lost=on_lost, ran=ran, losses=losses,
            recovery=recovery, verdict=verdict,
        )  # fmt: skip
        decision = rule(of, redelivered=True, identified=True)
        if decision.ruling is not Ruling.REFUSE:
            assert decision.ruling in (Ruling.GRANT, Ruling.REGRANT) or decision.reason
            continue
        finished = state in CLOSED_FOR_GOOD
        runs = state is State.RUNNING and owner is Owner.RENEWING and kept
        for_a_person = state is State.LOST and kept and recovery is not None
        found_over = state is State.LOST and recovery is RecoveryState.DONE and verdict not in BRINGS_BACK
        assert finished or runs or for_a_person or found_over, of
        assert decision.reason


def test_an_open_attempt_is_never_joined_by_another() -> None:
    """I2, over every combination of facts there is."""
    for state, owner, dispatched, kept, on_lost, ran, losses, recovery, verdict in _everything():
        if state in OPEN:
            of = latest(
                state, owner=owner, dispatched=dispatched, kept=kept, on_lost=on_lost, ran=ran,
                losses=losses, recovery=recovery, verdict=verdict,
            )  # fmt: skip
            assert rule(of, redelivered=True, identified=True).ruling is not Ruling.GRANT


def test_open_closed_and_the_kinds_of_closed_are_all_there_is() -> None:
    assert set(State) == OPEN | CLOSED
    assert CLOSED == CLOSED_FOR_GOOD | MAY_COME_AGAIN


# What the broker still keeps for somebody.

ENTRY = Entry("t", "m", "tag-2")


def past(state: State, **about: Any) -> Past:
    return Past(
        **{
            "number": 1, "message_id": "m", "tag": "tag-1", "state": state, "recovery": None, "verdict": None,
            "crashed": False, **about,
        }
    )  # fmt: skip


@pytest.mark.parametrize("state", sorted(CLOSED_FOR_GOOD))
def test_a_delivery_of_what_is_over_is_left_over(state: State) -> None:
    assert is_left_over(ENTRY, [past(state)])


@pytest.mark.parametrize("state", sorted(MAY_COME_AGAIN - {State.LOST}))
def test_what_a_dead_worker_was_to_give_back_is_left_over_only_under_its_own_tag(state: State) -> None:
    assert is_left_over(ENTRY, [past(state, tag="tag-2", crashed=True)])
    assert not is_left_over(ENTRY, [past(state, crashed=True)])


@pytest.mark.parametrize("state", sorted(MAY_COME_AGAIN - {State.LOST}))
def test_what_was_given_back_in_order_is_somebodys_under_the_same_tag_too(state: State) -> None:
    """Of a worker without Crisper, which nobody has on record."""
    assert not is_left_over(ENTRY, [past(state, tag="tag-2")])


@pytest.mark.parametrize("state", sorted(OPEN))
def test_a_delivery_of_what_is_open_is_somebodys(state: State) -> None:
    assert not is_left_over(ENTRY, [past(state, tag="tag-2")])
    assert not is_left_over(ENTRY, [past(state), past(State.SUCCEEDED, number=2)])


def test_a_delivery_that_is_not_on_record_may_be_somebodys() -> None:
    assert not is_left_over(ENTRY, [])
    assert not is_left_over(ENTRY, [past(State.SUCCEEDED, message_id="another message of the task")])


def test_of_a_lost_attempt_only_what_the_gate_refuses_is_left_over() -> None:
    """What comes back, and what waits for a person, is in a courier's hands."""
    for recovery, verdict in itertools.product((None, *RecoveryState), (None, *VerdictKind)):
        of = past(State.LOST, tag="tag-2", recovery=recovery, verdict=verdict)
        if is_left_over(ENTRY, [of]):
            decided = latest(State.LOST, recovery=recovery, verdict=verdict, kept=False)
            assert ruling(decided) is Ruling.REFUSE
    over = past(State.LOST, recovery=RecoveryState.DONE, verdict=VerdictKind.SETTLED)
    assert is_left_over(ENTRY, [over])
