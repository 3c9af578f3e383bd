"""The tables of moves, and what follows from them."""

from __future__ import annotations

import itertools

import pytest

from crisper.core.states import (
    BRINGS_BACK,
    BY_A_PERSON,
    CLOSED,
    MOVES,
    OPEN,
    RECOVERY_MOVES,
    UNDER_WAY,
    VERDICT_MOVES,
    WAITS_FOR_A_PERSON,
    RecoveryState,
    State,
    VerdictKind,
    WorkerState,
    may_decide,
    recoverable,
    stoppable,
    task_state,
)


def test_every_state_is_in_the_tables() -> None:
    assert set(MOVES) == set(State)
    assert set(RECOVERY_MOVES) == set(RecoveryState)
    assert set(VERDICT_MOVES) == set(VerdictKind)
    assert len(WorkerState) == 3


def test_a_closed_attempt_never_moves() -> None:
    assert all(not MOVES[state] for state in CLOSED)


def test_an_attempt_never_goes_back() -> None:
    for state in State:
        assert State.CLAIMED not in MOVES[state]
        assert state not in MOVES[state]
    assert State.RUNNING not in MOVES[State.RUNNING]


def test_every_open_attempt_can_end_in_every_way() -> None:
    assert all(MOVES[state] >= CLOSED for state in OPEN)


def test_every_recovery_can_be_done() -> None:
    for state in RecoveryState:
        assert state is RecoveryState.DONE or RecoveryState.DONE in RECOVERY_MOVES[state]


def test_a_recovery_is_under_way_waits_for_a_person_or_is_done() -> None:
    assert UNDER_WAY | WAITS_FOR_A_PERSON | {RecoveryState.DONE} == set(RecoveryState)
    assert not UNDER_WAY & WAITS_FOR_A_PERSON


@pytest.mark.parametrize(("state", "verdict"), list(itertools.product(RecoveryState, VerdictKind)))
def test_what_may_be_decided_is_a_move_of_the_table(state: RecoveryState, verdict: VerdictKind) -> None:
    if may_decide(state, verdict):
        to = VERDICT_MOVES[verdict]
        again = (RecoveryState.WAITING, RecoveryState.DECIDED)  # awaited again, or revoked meanwhile
        assert to in RECOVERY_MOVES[state] or (to is state and state in again)


def test_couriers_decide_what_is_pending_and_people_the_rest() -> None:
    for verdict in set(VerdictKind) - {VerdictKind.REVOKED}:
        assert may_decide(RecoveryState.PENDING, verdict) is (verdict not in BY_A_PERSON)
        assert not may_decide(RecoveryState.DECIDED, verdict) or VERDICT_MOVES[verdict] is RecoveryState.DONE
        for state in WAITS_FOR_A_PERSON:
            assert may_decide(state, verdict) is (verdict in BY_A_PERSON)
    assert may_decide(RecoveryState.DONE, VerdictKind.RECOVER)
    assert not may_decide(RecoveryState.DONE, VerdictKind.DISCARD)


def test_couriers_and_people_revoke_and_what_may_still_run_is_what_a_person_can_stop() -> None:
    for state, verdict in itertools.product(RecoveryState, (None, *VerdictKind)):
        assert may_decide(state, VerdictKind.REVOKED)
        over = verdict is VerdictKind.REVOKED or (state is RecoveryState.DONE and verdict not in BRINGS_BACK)
        assert stoppable(state, verdict) is not over


def test_what_was_awaited_in_vain_may_be_held_and_awaited_again() -> None:
    for verdict in (VerdictKind.RESEND, VerdictKind.HOLD, VerdictKind.AWAIT_REDELIVERY, VerdictKind.SETTLED):
        assert may_decide(RecoveryState.WAITING, verdict)


def test_what_waits_for_a_person_failed_or_was_discarded_or_stopped_can_be_recovered() -> None:
    for state, verdict in itertools.product(RecoveryState, (None, *VerdictKind)):
        expected = state in WAITS_FOR_A_PERSON or (
            state is RecoveryState.DONE
            and verdict in (VerdictKind.FAIL, VerdictKind.DISCARD, VerdictKind.REVOKED)
        )
        assert recoverable(state, verdict) is expected
        assert not expected or may_decide(state, VerdictKind.RECOVER)


# The word that people see.


@pytest.mark.parametrize("state", sorted(set(State) - {State.LOST}))
def test_a_task_that_was_not_lost_stands_where_its_attempt_stands(state: State) -> None:
    assert task_state(state, None, None) == state.value


@pytest.mark.parametrize(
    ("recovery", "verdict", "word"),
    [
        (None, None, "lost"),
        (RecoveryState.PENDING, None, "recovering"),
        (RecoveryState.DECIDED, VerdictKind.RESEND, "recovering"),
        (RecoveryState.DECIDED, VerdictKind.FAIL, "recovering"),
        (RecoveryState.WAITING, VerdictKind.AWAIT_REDELIVERY, "recovering"),
        (RecoveryState.DONE, VerdictKind.RESEND, "recovering"),
        (RecoveryState.QUARANTINED, VerdictKind.QUARANTINE, "quarantined"),
        (RecoveryState.HELD, VerdictKind.HOLD, "held"),
        (RecoveryState.DONE, VerdictKind.SETTLED, "settled"),
        (RecoveryState.DONE, VerdictKind.EXPIRED, "expired"),
        (RecoveryState.DECIDED, VerdictKind.REVOKED, "revoked"),
        (RecoveryState.DONE, VerdictKind.REVOKED, "revoked"),
        (RecoveryState.DONE, VerdictKind.FAIL, "failed"),
        (RecoveryState.DONE, VerdictKind.DISCARD, "discarded"),
    ],
)
def test_a_lost_task_is_named_by_its_recovery(
    recovery: RecoveryState | None, verdict: VerdictKind | None, word: str
) -> None:
    assert task_state(State.LOST, recovery, verdict) == word


def test_a_stopped_task_that_a_person_recovers_is_recovering() -> None:
    for recovery in (RecoveryState.DECIDED, RecoveryState.DONE):
        assert task_state(State.REVOKED, recovery, VerdictKind.RECOVER) == "recovering"
        assert task_state(State.REVOKED, recovery, VerdictKind.REVOKED) == "revoked"


def test_every_verdict_that_is_done_has_a_word() -> None:
    for verdict in VerdictKind:
        word = task_state(State.LOST, RecoveryState.DONE, verdict)
        assert (word == "recovering") is (verdict in BRINGS_BACK)
