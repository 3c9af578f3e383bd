"""Verdicts: what is to be done about a lost attempt, why, and on what evidence.

Pure. The sentence that explains a verdict is made here and nowhere else: CLI,
log, audit row and page show the same words.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from crisper.core.model import Recovery
from crisper.core.states import BRINGS_BACK, OnLost, State, VerdictKind


class InBroker(StrEnum):
    """Where the broker has the lost attempt's message."""

    UNACKED = "unacked"  # held for the dead consumer; can be handed back at once
    QUEUED = "queued"  # already back in its queue
    GONE = "gone"  # in no queue and not held
    REQUEUES = "requeues"  # this broker requeues by itself and cannot be asked
    TAKEN = "taken"  # a worker says that it has it: one without Crisper, which claims nothing
    NEVER = "never gives back"  # this broker forgets what it delivered
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the rules ask for."""

    cause: str  # worker, child, shutdown, vanished, vanished again
    ran: bool  # seen running, or durably dispatched
    started: bool  # seen running
    acks_late: bool
    on_lost: OnLost
    losses: int
    loss_budget: int
    kept: bool
    why_not_kept: str | None = None
    task_known: bool = True  # whether those who would receive it know its task
    queue_gone: bool = False  # it was broadcast: its queue was its worker's own
    in_broker: InBroker = InBroker.UNKNOWN
    child_said: str | None = None
    backend_state: str | None = None
    superseded: bool = False
    expired: bool = False
    revoked: bool = False
    copy_refused: bool = False
    overdue: bool = False
    killed_for: str | None = None  # the sentence of its loss's evidence, see `KILLED_FOR`
    #: How often its quorum queue had had it given back before; of RabbitMQ, as the next two.
    delivery_count: int | None = None
    delivery_limit: int | None = None
    dead_letter_exchange: str | None = None


class Verdict(NamedTuple):
    kind: VerdictKind
    reason: str
    evidence: dict[str, Any]


def stopped_by(by: str, reason: str) -> str:
    """What callers and the attempt's own record are told of a task that a person stopped."""
    return f"stopped by {by}: {reason}"


class Judgement(NamedTuple):
    """A verdict over a recovery as it was seen, ready to be committed."""

    recovery: Recovery
    verdict: Verdict
    due_in_ms: int | None = None  # how long a redelivery is awaited


def judge(facts: Facts) -> Verdict:
    """The table of design section 5, top to bottom."""
    kind, reason = _unless_unknown(facts, _over(facts) or _too_often(facts) or _bring_back(facts))
    if facts.killed_for and kind is not VerdictKind.SETTLED:
        reason = f"{facts.killed_for}, {reason}"
    evidence = {name: getattr(facts, name) for name in facts.__slots__}
    if kind is VerdictKind.HOLD and _is_dead_letter(facts):
        evidence[DEAD_LETTERED] = True
    return Verdict(kind, reason, evidence)


#: In the evidence of a loss, how the kernel ended its process for want of memory, as a sentence.
KILLED_FOR = "killed_for"

#: In the evidence of what is held because the broker dead-lettered it; its owner may send it back.
DEAD_LETTERED = "dead_lettered"

#: In the evidence of the loss of what was ended in order to run again, whatever else its policy says.
RESEND = "resend"

_Ruling = tuple[VerdictKind, str]


_STORED = (State.SUCCEEDED, State.FAILED, State.REVOKED)


def superseded_or_finished(
    number: int, retries: int, others: Iterable[tuple[int, int, str, str | None]]
) -> tuple[bool, bool]:
    """Whether a task's own retry is on record, and whether it may have stored a result before.

    `others`: number, retries, state and verdict of every attempt of the task. What a person
    recovered may have been failed by policy before.
    """
    seen = list(others)
    superseded = any(more > retries for _, more, _, _ in seen)
    finished = any(
        earlier < number and (state in _STORED or verdict in (VerdictKind.FAIL, VerdictKind.RECOVER))
        for earlier, _, state, verdict in seen
    )
    return superseded, finished


def _over(facts: Facts) -> _Ruling | None:
    if facts.child_said:
        return VerdictKind.SETTLED, f"its process reported it {facts.child_said} before the loss"
    if facts.backend_state:
        return VerdictKind.SETTLED, f"its result is stored already: {facts.backend_state}"
    if facts.superseded:
        return VerdictKind.SETTLED, "it had already sent its own retry"
    if facts.revoked:
        return VerdictKind.REVOKED, "a person revoked it"
    if facts.expired:
        return VerdictKind.EXPIRED, "its message expired before it could run again"
    return None


def _too_often(facts: Facts) -> _Ruling | None:
    if facts.ran and facts.losses > facts.loss_budget:
        return VerdictKind.QUARANTINE, (
            f"lost while running {_times(facts.losses)}, its loss budget is {facts.loss_budget}"
        )
    return None


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _bring_back(facts: Facts) -> _Ruling:
    if facts.cause == "vanished again":
        return VerdictKind.HOLD, (
            "it was sent again and vanished again: something takes its messages away"
            " (an unroutable or expiring queue, a consumer that keeps no record)"
        )
    if facts.ran and facts.on_lost is OnLost.HOLD:
        return VerdictKind.HOLD, "policy: hold a lost task for a person"
    if facts.ran and facts.acks_late and facts.on_lost is OnLost.FAIL:
        return VerdictKind.FAIL, "it was running, and policy is to fail a lost task"
    if facts.cause == "vanished":
        return _resend(facts, _why_resend(facts))
    if facts.acks_late:
        return _from_broker(facts) or _resend(facts, _why_resend(facts))
    if facts.started:
        return _acknowledged(facts)
    return _from_broker(facts) or _early_and_gone(facts)


def _unless_unknown(facts: Facts, ruling: _Ruling) -> _Ruling:
    """Celery discards the message of a task that a worker does not know."""
    kind, reason = ruling
    if facts.queue_gone and kind in BRINGS_BACK:
        return VerdictKind.HOLD, "it was broadcast, and the queue of its worker is gone with the worker"
    if facts.task_known or kind not in (VerdictKind.RESEND, VerdictKind.HAND_BACK):
        return ruling
    return VerdictKind.HOLD, f"{reason}, but the workers of its queue do not know its task any more"


def _from_broker(facts: Facts) -> _Ruling | None:
    """What the broker still has comes back by the broker."""
    match facts.in_broker:
        case InBroker.UNACKED:
            return VerdictKind.HAND_BACK, "the broker holds its message for the dead worker"
        case InBroker.QUEUED:
            return VerdictKind.AWAIT_REDELIVERY, "its message is back in the queue"
        case InBroker.TAKEN:
            return VerdictKind.AWAIT_REDELIVERY, "a worker that is not on record says that it has it"
        case InBroker.REQUEUES | InBroker.UNKNOWN if not (facts.overdue or facts.copy_refused):
            return VerdictKind.AWAIT_REDELIVERY, "the broker requeues what a lost connection held"
        case InBroker.REQUEUES | InBroker.UNKNOWN if _is_over_its_limit(facts):
            return _over_its_limit(facts)
    return None


def _is_over_its_limit(facts: Facts) -> bool:
    """Whether the broker gives no more of it: awaited in vain, and once more was once too often."""
    unacknowledged = facts.acks_late or not facts.ran
    waited = facts.overdue and not facts.copy_refused and unacknowledged
    return waited and facts.delivery_limit is not None and _times_back(facts) > facts.delivery_limit


def _is_dead_letter(facts: Facts) -> bool:
    return _is_over_its_limit(facts) and facts.dead_letter_exchange is not None


def _times_back(facts: Facts) -> int:
    return (facts.delivery_count or 0) + 1


def _over_its_limit(facts: Facts) -> _Ruling:
    """A dead letter is its queue's owner's; of what was dropped, the kept message is what is left."""
    over = f"return number {_times_back(facts)} is over its queue's delivery limit of {facts.delivery_limit}"
    if _is_dead_letter(facts):
        to = facts.dead_letter_exchange or "the default exchange"
        return VerdictKind.HOLD, f"the broker dead-lettered it to {to}: {over}"
    return _resend(facts, f"the broker dropped it: {over}, and no dead-letter exchange is known")


def _early_and_gone(facts: Facts) -> _Ruling:
    """Early acks: what the broker has forgotten was acknowledged, so its body may have begun."""
    if facts.in_broker is InBroker.NEVER and not facts.ran:
        return _resend(facts, _why_resend(facts))
    return _acknowledged(facts)


def _why_resend(facts: Facts) -> str:
    if facts.cause == "vanished":
        return "it was published, never claimed, and is nowhere in the broker"
    if facts.copy_refused:
        return "its only other delivery was refused as a copy"
    if facts.overdue:
        return "the broker did not redeliver it within the grace"
    if facts.in_broker is InBroker.NEVER:
        return "this broker does not give back what a dead worker held"
    return "its message is nowhere in the broker"


def _acknowledged(facts: Facts) -> _Ruling:
    """The broker has forgotten it, and the body may have begun."""
    if facts.on_lost is OnLost.RESEND:
        return _resend(facts, "it was acknowledged early, and policy is to re-send a lost task")
    if facts.on_lost is OnLost.HOLD:
        return VerdictKind.HOLD, "policy: hold a lost task for a person"
    return VerdictKind.FAIL, "it was acknowledged early, and nobody said that it may run twice"


def _resend(facts: Facts, why: str) -> _Ruling:
    if facts.kept:
        return VerdictKind.RESEND, why
    return VerdictKind.HOLD, f"{why}, but it is not re-sendable: {facts.why_not_kept}"


def is_same_verdict(seen: Recovery, now: Recovery, kind: VerdictKind, by: str) -> bool:
    """Whether the recovery moved since by this verdict of ours, whose answer we never got.

    Every change counts the version up, and a case is in the hands of one courier at a time: what is one
    version further and decided by us was decided by this very call.
    """
    return (now.version, now.verdict, now.decided_by) == (seen.version + 1, kind, by)
