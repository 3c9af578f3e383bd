"""What a person may do to a task: recover it, discard it, stop it. Each id is answered on its own.

The store decides by compare-and-set; the sentences here say what it did, or why it did not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from crisper.core.message import unpack
from crisper.core.model import Recovery
from crisper.core.states import (
    MAY_FOLLOW,
    OPEN,
    WAITS_FOR_A_PERSON,
    RecoveryState,
    Saw,
    State,
    VerdictKind,
    WorkerState,
    recoverable,
    stoppable,
)
from crisper.engine.survey import Survey
from crisper.errors import MessageDamaged
from crisper.store.base import Store


class Outcome(StrEnum):
    """What became of one id."""

    DONE = "done"
    NOT_FOUND = "not_found"
    NOT_POSSIBLE = "not_possible"  # its message is not kept, or there is nothing to do
    REFUSED = "refused"  # it could run twice, or be lost, by it
    MOVED = "moved"  # it is no more as it was seen
    UNREACHABLE = "unreachable"  # decided, but the broker did not take it; a live worker tries again


@dataclass(frozen=True, slots=True)
class Done:
    """What became of one id, and the sentence that says so."""

    task_id: str
    outcome: Outcome
    reason: str
    attempt: int | None = None
    recovery: Recovery | None = None  # decided, and not yet carried out


Answer = tuple[Outcome, str]
#: What a task must still be, where it was chosen by its state: others may have decided meanwhile.
States = Collection[str] | None
_Act = Callable[[str, int, Saw | None], Done | None]
#: A task that moves from one state that was asked for to another while this is decided is looked at again.
_LOOKS = 3
_YES: Answer = (Outcome.DONE, "")
_MOVED = "it moved while this was decided; look at it again"


def recover(
    store: Store,
    survey: Survey,
    task_ids: Iterable[str],
    *,
    by: str,
    reason: str,
    only: States = None,
    saw: Saw | None = None,
) -> list[Done]:
    """Decide that the kept message of each is sent again. Who calls this carries the decisions out.

    `saw`: refused, and nothing is written, unless the task still is as somebody saw it.
    """

    def act(task_id: str, number: int, saw: Saw | None) -> Done | None:
        recovery = store.recover(task_id, by=by, reason=reason, saw=saw)
        if recovery is None:
            return None
        return Done(task_id, Outcome.DONE, "is sent again", recovery.number, recovery)

    return [_one(survey, task_id, may_recover, act, only, saw) for task_id in _unique(task_ids)]


def discard(
    store: Store,
    survey: Survey,
    task_ids: Iterable[str],
    *,
    by: str,
    reason: str,
    only: States = None,
    saw: Saw | None = None,
) -> list[Done]:
    """Close each for good. Its message is kept until it is pruned, so that `recover` can undo it."""

    def act(task_id: str, number: int, saw: Saw | None) -> Done | None:
        if not store.discard(task_id, by=by, reason=reason, saw=saw):
            return None
        return Done(task_id, Outcome.DONE, "is closed for good", number)

    return [_one(survey, task_id, may_discard, act, only, saw) for task_id in _unique(task_ids)]


def stop(
    store: Store,
    survey: Survey,
    task_ids: Iterable[str],
    *,
    by: str,
    reason: str,
    only: States = None,
    saw: Saw | None = None,
) -> list[Done]:
    """Order each to stop, wherever it is. Who calls this carries the decisions about lost ones out."""

    def act(task_id: str, number: int, saw: Saw | None) -> Done | None:
        stopped = store.stop(task_id, by=by, reason=reason, saw=saw)
        if stopped is None:
            return None
        if stopped.recovery is not None:
            return Done(task_id, Outcome.DONE, "is stopped", stopped.number, stopped.recovery)
        ordered = _BEFORE_IT_BEGINS if stopped.state in MAY_FOLLOW else _BY_ITS_WORKER
        return Done(task_id, Outcome.DONE, ordered, stopped.number)

    return [_one(survey, task_id, may_stop, act, only, saw) for task_id in _unique(task_ids)]


_BY_ITS_WORKER = (
    "is ordered to stop: its worker does so within seconds, or, if it is lost, it is not run again"
)
_BEFORE_IT_BEGINS = (
    "is ordered to stop: it is not running now, and if its message comes again, does not begin"
)


def to_know(verb: str, standing: dict[str, Any]) -> str:
    """What a person should know before they do it; empty: nothing."""
    if verb == "recover" and standing["begun"]:
        return f"it had begun: {_AGAIN}"
    if verb == "recover" and standing["may_have_begun"]:
        return f"it was acknowledged early and may have begun: {_AGAIN}"
    if verb == "stop" and standing["attempt_state"] == State.RUNNING:
        return "it is running: what its body has done already is not undone"
    return ""


_AGAIN = "what a body has done already, it does again"


def would(
    survey: Survey, task_ids: Iterable[str], may: Callable[[dict[str, Any]], Answer], *, only: States = None
) -> list[Done]:
    """What `recover`, `discard` or `stop` would answer now; nothing is written."""
    return [
        _one(survey, task_id, may, lambda id, number, _: Done(id, Outcome.DONE, "", number), only)
        for task_id in _unique(task_ids)
    ]


def _unique(task_ids: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(task_ids))


def _one(
    survey: Survey,
    task_id: str,
    may: Callable[[dict[str, Any]], Answer],
    act: _Act,
    only: States,
    saw: Saw | None = None,
) -> Done:
    number = None
    for _ in range(_LOOKS):
        standing = survey.standing(task_id)
        if standing is None:
            return Done(task_id, Outcome.NOT_FOUND, "no task of that id is on record")
        number = int(standing["attempt"])
        seen = Saw(number, standing["state"])
        if saw is not None and saw != seen:
            return Done(task_id, Outcome.MOVED, _MOVED, number)
        outcome, why = may(standing)
        if outcome is Outcome.DONE and may is may_recover:
            outcome, why = _unless_damaged(survey, task_id) or _YES
        if outcome is not Outcome.DONE:
            return Done(task_id, outcome, why, number)
        if only is not None and seen.state not in only:
            why = f"it is {seen.state} by now, which was not asked for; it was left as it is"
            return Done(task_id, Outcome.REFUSED, why, number)
        if done := act(task_id, number, saw if only is None else seen):
            return done
        if only is None:
            break
    return Done(task_id, Outcome.REFUSED if saw is None else Outcome.MOVED, _MOVED, number)


def may_recover(standing: dict[str, Any]) -> Answer:
    """Whether a task's message may be sent again, from `Survey.standing`."""
    revoked = State(standing["attempt_state"]) is State.REVOKED and standing["recovery"] is None
    if revoked and (standing["kept"] or standing["why_not_kept"]):  # a person had stopped it
        return _unless_kept(standing) or _YES
    return _unless_lost(standing) or _unless_decided(standing) or _unless_kept(standing) or _YES


def _unless_damaged(survey: Survey, task_id: str) -> Answer | None:
    """What cannot be sent is better said now than found out by a courier, again and again."""
    message = survey.message(task_id)
    try:
        if message is not None:
            unpack(message)
    except MessageDamaged as exc:
        return Outcome.NOT_POSSIBLE, f"{exc}. It cannot be sent again; the rest of its record stays"
    return None


def may_discard(standing: dict[str, Any]) -> Answer:
    """Whether a task may be closed for good, from `Survey.standing`."""
    if standing["recovery"] in WAITS_FOR_A_PERSON:
        return _YES
    if standing["verdict"] == VerdictKind.DISCARD and standing["recovery"] == RecoveryState.DONE:
        return Outcome.NOT_POSSIBLE, "it is discarded already"
    return _unless_lost(standing) or (
        Outcome.REFUSED,
        f"only a quarantined or held task can be discarded, and this one is {standing['state']}",
    )


#: Pools of which one body can be ended alone: by its process, or as a greenlet.
_ENDS_ONE = ("prefork", "processes", "gevent")


def may_stop(standing: dict[str, Any]) -> Answer:
    """Whether a task may be stopped, from `Survey.standing`."""
    state, number = State(standing["attempt_state"]), standing["attempt"]
    if standing["recovery"] is not None:
        if stoppable(RecoveryState(standing["recovery"]), _verdict(standing)):
            return _YES
        return Outcome.NOT_POSSIBLE, f"it is over: the task is {standing['state']}"
    if state in OPEN | MAY_FOLLOW:
        return _unless_in_one_process(standing, state) or _YES
    return Outcome.NOT_POSSIBLE, f"it is over: its attempt {number} {_OVER.get(state, f'is {state}')}"


def _verdict(standing: dict[str, Any]) -> VerdictKind | None:
    return None if standing["verdict"] is None else VerdictKind(standing["verdict"])


def _unless_in_one_process(standing: dict[str, Any], state: State) -> Answer | None:
    """Nobody can end a thread without its whole worker."""
    pool = standing["pool"]
    runs_there = state is State.RUNNING and standing["worker_state"] == WorkerState.ALIVE
    if not runs_there or pool is None or pool in _ENDS_ONE:
        return None
    return Outcome.REFUSED, (
        f"its attempt {standing['attempt']} runs inside the process of {standing['worker']} (pool: {pool}),"
        " where nobody can stop one body alone. Wait until it ends; or end that worker, then stop this task"
    )


def _unless_lost(standing: dict[str, Any]) -> Answer | None:
    state = State(standing["attempt_state"])
    if state is State.LOST or standing["recovery"] is not None:
        return None
    if state in OPEN:
        return Outcome.REFUSED, f"its attempt {standing['attempt']} is {state} on {standing['worker']}"
    return Outcome.REFUSED, f"it is over: its attempt {standing['attempt']} {_OVER.get(state, f'is {state}')}"


_OVER = {State.SUCCEEDED: "succeeded", State.FAILED: "failed by itself", State.RETRIED: "was retried"}


def _unless_decided(standing: dict[str, Any]) -> Answer | None:
    recovery, verdict = standing["recovery"], standing["verdict"]
    if recovery in WAITS_FOR_A_PERSON:
        return None
    if recovery == RecoveryState.DONE:
        if recoverable(RecoveryState.DONE, _verdict(standing)):
            return None
        return Outcome.REFUSED, f"its recovery is done: {standing['reason'] or verdict}"
    if verdict == VerdictKind.REVOKED:
        return Outcome.REFUSED, "it was stopped, and its callers are being told; try again in a moment"
    return Outcome.REFUSED, "Crisper is recovering it already"


def _unless_kept(standing: dict[str, Any]) -> Answer | None:
    if standing["kept"]:
        return None
    why = standing["why_not_kept"] or "it was pruned"
    return Outcome.NOT_POSSIBLE, f"its message is not kept ({why}), so it cannot be sent again"
