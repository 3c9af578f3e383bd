"""The states of an attempt and of a recovery, and the one table of moves for each."""

from __future__ import annotations

from enum import StrEnum
from itertools import product
from typing import NamedTuple


class State(StrEnum):
    """Where one attempt stands. A closed attempt never changes (I3)."""

    CLAIMED = "claimed"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RETRIED = "retried"
    REJECTED = "rejected"
    REVOKED = "revoked"
    EXPIRED = "expired"
    RELEASED = "released"
    LOST = "lost"


OPEN = frozenset({State.CLAIMED, State.RUNNING})
CLOSED = frozenset(State) - OPEN
#: The message never runs again, however often the broker delivers it (I9).
CLOSED_FOR_GOOD = frozenset({State.SUCCEEDED, State.FAILED, State.RETRIED, State.REVOKED, State.EXPIRED})
#: The message may come again: the next delivery opens the next attempt.
MAY_COME_AGAIN = CLOSED - CLOSED_FOR_GOOD

#: Where an order to stop the attempt stays in force: the task goes on, by the same message or its own retry.
MAY_FOLLOW = frozenset({State.RELEASED, State.REJECTED, State.RETRIED})
#: A lost attempt has one recovery; one that a person stopped has one once a person recovers it.
HAVE_RECOVERIES = frozenset({State.LOST, State.REVOKED})

#: A claimed attempt may close without having been seen running: short tasks
#: end before their start is worth a write of its own.
MOVES: dict[State, frozenset[State]] = {
    State.CLAIMED: CLOSED | {State.RUNNING},
    State.RUNNING: CLOSED,
    **{state: frozenset() for state in CLOSED},
}


class RecoveryState(StrEnum):
    """Where the recovery of one lost attempt stands."""

    PENDING = "pending"  # the loss is on record, nobody has decided yet
    DECIDED = "decided"  # the verdict is on record, its action may be under way
    WAITING = "waiting"  # the broker is expected to redeliver until `due_at`
    QUARANTINED = "quarantined"  # over its loss budget; a person decides
    HELD = "held"  # by policy; a person decides
    DONE = "done"


WAITS_FOR_A_PERSON = frozenset({RecoveryState.QUARANTINED, RecoveryState.HELD})
UNDER_WAY = frozenset({RecoveryState.PENDING, RecoveryState.DECIDED, RecoveryState.WAITING})

#: DONE may be decided again, by a person only: a task that policy failed, or that was
#: discarded or stopped, still has its message until it is pruned; and what was sent again
#: and did not begin yet can be stopped.
RECOVERY_MOVES: dict[RecoveryState, frozenset[RecoveryState]] = {
    RecoveryState.PENDING: frozenset(RecoveryState) - {RecoveryState.PENDING},
    RecoveryState.DECIDED: frozenset({RecoveryState.DONE, RecoveryState.PENDING}),
    RecoveryState.WAITING: frozenset({RecoveryState.DECIDED, RecoveryState.HELD, RecoveryState.DONE}),
    RecoveryState.QUARANTINED: frozenset({RecoveryState.DECIDED, RecoveryState.DONE}),
    RecoveryState.HELD: frozenset({RecoveryState.DECIDED, RecoveryState.DONE}),
    RecoveryState.DONE: frozenset({RecoveryState.DECIDED}),
}


class WorkerState(StrEnum):
    """Where one incarnation stands."""

    ALIVE = "alive"
    LOST = "lost"
    GONE = "gone"  # said goodbye


class VerdictKind(StrEnum):
    """What is to be done about a lost attempt."""

    SETTLED = "settled"
    EXPIRED = "expired"
    REVOKED = "revoked"
    QUARANTINE = "quarantine"
    HAND_BACK = "hand_back"
    AWAIT_REDELIVERY = "await_redelivery"
    RESEND = "resend"
    FAIL = "fail"
    HOLD = "hold"
    #: The broker delivered the message again before anybody had to act.
    REDELIVERED = "redelivered"
    #: By a person.
    RECOVER = "recover"
    DISCARD = "discard"


#: Verdicts after which the message is meant to run again.
BRINGS_BACK = frozenset(
    {
        VerdictKind.HAND_BACK,
        VerdictKind.AWAIT_REDELIVERY,
        VerdictKind.RESEND,
        VerdictKind.REDELIVERED,
        VerdictKind.RECOVER,
    }
)

#: Where each verdict puts its recovery.
VERDICT_MOVES: dict[VerdictKind, RecoveryState] = {
    VerdictKind.SETTLED: RecoveryState.DONE,
    VerdictKind.EXPIRED: RecoveryState.DONE,
    VerdictKind.REVOKED: RecoveryState.DECIDED,
    VerdictKind.QUARANTINE: RecoveryState.QUARANTINED,
    VerdictKind.HAND_BACK: RecoveryState.DECIDED,
    VerdictKind.AWAIT_REDELIVERY: RecoveryState.WAITING,
    VerdictKind.RESEND: RecoveryState.DECIDED,
    VerdictKind.FAIL: RecoveryState.DECIDED,
    VerdictKind.HOLD: RecoveryState.HELD,
    VerdictKind.REDELIVERED: RecoveryState.DONE,
    VerdictKind.RECOVER: RecoveryState.DECIDED,
    VerdictKind.DISCARD: RecoveryState.DONE,
}


#: What only a person decides.
BY_A_PERSON = frozenset({VerdictKind.RECOVER, VerdictKind.DISCARD})
#: What stays decided although it could not be carried out at once: no fresh facts would change it. A
#: failure that was stored and could not be completed would be taken for the task's own result.
STANDS = frozenset({VerdictKind.RECOVER, VerdictKind.REVOKED, VerdictKind.FAIL})


def may_decide(recovery: RecoveryState, verdict: VerdictKind) -> bool:
    """Whether a recovery in this state may be given this verdict.

    Couriers decide what is pending, and anew what was awaited in vain; people decide the rest,
    and may revoke whatever the state (`stoppable` says when that makes sense).
    """
    if verdict is VerdictKind.REVOKED:
        return True
    to = VERDICT_MOVES[verdict]
    if recovery in UNDER_WAY:
        awaited_again = recovery is to is RecoveryState.WAITING
        return verdict not in BY_A_PERSON and (to in RECOVERY_MOVES[recovery] or awaited_again)
    return verdict in BY_A_PERSON and to in RECOVERY_MOVES[recovery]


def recoverable(recovery: RecoveryState, verdict: VerdictKind | None) -> bool:
    """Whether a person may have the message of a lost attempt sent again."""
    if recovery in WAITS_FOR_A_PERSON:
        return True
    return recovery is RecoveryState.DONE and verdict in _UNDONE_BY_RECOVER


_UNDONE_BY_RECOVER = frozenset({VerdictKind.FAIL, VerdictKind.DISCARD, VerdictKind.REVOKED})


def stoppable(recovery: RecoveryState, verdict: VerdictKind | None) -> bool:
    """Whether a lost task may still run again, so that a person may stop it."""
    if recovery is RecoveryState.DONE:
        return verdict in BRINGS_BACK
    return verdict is not VerdictKind.REVOKED


class OnLost(StrEnum):
    """What a task wants done with an attempt that was running when it was lost."""

    RESEND = "resend"
    FAIL = "fail"
    HOLD = "hold"


class Saw(NamedTuple):
    """What a person saw of a task when they decided: its latest attempt, and the word for its state."""

    number: int
    state: str

    def holds(
        self, number: int, attempt: State, recovery: RecoveryState | None, verdict: VerdictKind | None
    ) -> bool:
        return self == (number, task_state(attempt, recovery, verdict))


def task_state(attempt: State, recovery: RecoveryState | None, verdict: VerdictKind | None) -> str:
    """The word that people see for a task, from its latest attempt and that one's recovery."""
    if attempt not in HAVE_RECOVERIES or recovery is None:
        return attempt.value
    if recovery in WAITS_FOR_A_PERSON:
        return recovery.value
    if verdict is VerdictKind.REVOKED:
        return verdict.value
    if recovery is RecoveryState.DONE and verdict not in BRINGS_BACK:
        return _FINAL_WORDS.get(verdict, State.LOST.value)
    return "recovering"


_FINAL_WORDS: dict[VerdictKind | None, str] = {
    VerdictKind.SETTLED: "settled",
    VerdictKind.EXPIRED: "expired",
    VerdictKind.REVOKED: "revoked",
    VerdictKind.FAIL: "failed",
    VerdictKind.DISCARD: "discarded",
}


def task_words() -> dict[str, list[tuple[State, RecoveryState | None, VerdictKind | None]]]:
    """Every word that `task_state` can say, and what it says it of."""
    words: dict[str, list[tuple[State, RecoveryState | None, VerdictKind | None]]] = {}
    for state in State:
        words.setdefault(task_state(state, None, None), []).append((state, None, None))
    for state, recovery, verdict in product(HAVE_RECOVERIES, RecoveryState, (None, *VerdictKind)):
        words.setdefault(task_state(state, recovery, verdict), []).append((state, recovery, verdict))
    return words
