"""The gate: may this delivery run? (design, section 3). Pure: facts in, ruling out.

Acknowledging is destroying, so `REFUSE` is given only where the task cannot be
lost by it. Everything that is not safely one of the other answers is parked or
put back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from crisper.core.model import Attempt, Claim, Entry
from crisper.core.states import (
    BRINGS_BACK,
    CLOSED_FOR_GOOD,
    MAY_FOLLOW,
    OPEN,
    WAITS_FOR_A_PERSON,
    OnLost,
    RecoveryState,
    State,
    VerdictKind,
)

#: Of a redelivered message that nobody has on record.
DOUBTED = "a worker that is not heard of now, or has a journal to replay, may have run it"


class Ruling(StrEnum):
    GRANT = "granted"  # opens attempt n+1
    REGRANT = "regranted"  # the open attempt n is given to the newer delivery
    PARK = "parked"
    REFUSE = "refused"
    PUT_BACK = "put_back"
    OVERLAP = "overlap"  # it ran while nobody could be asked, and so did another


class Owner(StrEnum):
    """What the asking recorder knows of the incarnation that holds the open attempt."""

    SELF = "self"
    RENEWING = "renewing"  # its counter was seen to move within the last half lease
    UNJUDGED = "unjudged"  # alive by the registry, not seen to renew; or lost and not yet closed


@dataclass(frozen=True, slots=True)
class Latest:
    """The message's latest attempt, as the gate needs it."""

    number: int
    state: State
    owner: Owner
    dispatched: bool
    kept: bool
    on_lost: OnLost
    ran: bool
    losses: int
    loss_budget: int
    recovery: RecoveryState | None = None
    verdict: VerdictKind | None = None
    undecided_ms: int = 0  # for so long its loss has been on record, and this delivery has waited
    dead_lettered: bool = False  # it is held because the broker dead-lettered it


#: A loss that no courier has decided for so long is not waited for: its app may have no worker left.
UNDECIDED_MS = 30_000


class Decision(NamedTuple):
    ruling: Ruling
    reason: str = ""


def rule(latest: Latest | None, *, redelivered: bool, identified: bool, newer: bool = True) -> Decision:
    """The gate's table. `latest` is the latest attempt of this very message.

    `newer`: this delivery takes the place of the one that the attempt is granted to, which was
    received before it, on a connection that is lost. A parked one asks again and again, and must
    not take back what a later one was granted; a copy beside it must not either.
    """
    if latest is None:
        return Decision(Ruling.GRANT)
    if latest.state in OPEN:
        return _open(latest, newer)
    if latest.state is State.LOST:
        return _lost(latest)
    if latest.state in CLOSED_FOR_GOOD:
        return _finished(latest, redelivered or identified)
    return Decision(Ruling.GRANT)


def ruled_later(decision: Decision, latest: Latest | None, *, given_back: bool) -> Decision:
    """The gate's answer to a claim that was let run while the registry was away: it becomes an attempt
    like any other, or it has a rival, and is no attempt.

    One whose delivery was given back, meanwhile, is not what a loss waits for: that came later, and nobody
    would bring the task back once this is taken for it."""
    if given_back and latest and latest.state is State.LOST and latest.recovery is not RecoveryState.DONE:
        return Decision(Ruling.OVERLAP, "its delivery was given back, and a later one is being recovered")
    if decision.ruling in (Ruling.GRANT, Ruling.REGRANT):
        return decision
    return Decision(Ruling.OVERLAP, decision.reason)


class Past(NamedTuple):
    """What is on record of one attempt, as `is_left_over` needs it."""

    number: int
    message_id: str
    tag: str
    state: State
    recovery: RecoveryState | None
    verdict: VerdictKind | None
    crashed: bool  # its incarnation was declared lost, and did not say goodbye


def is_left_over(entry: Entry, attempts: Iterable[Past]) -> bool:
    """Whether a delivery that the broker keeps is nobody's any more, and may be handed back for the gate
    to answer: its task is over, or its own attempt ended and its worker died before it gave the message back.
    A message that was given back keeps its tag on Redis: a worker without Crisper may have it now.

    What is open, and what a courier has in hand, is theirs; what is not on record may be
    in the hands of a worker that keeps none.
    """
    known = [past for past in attempts if past.message_id == entry.message_id]
    if not known or any(past.state in OPEN for past in known):
        return False
    latest = max(known)
    if latest.state is State.LOST or latest.verdict is VerdictKind.RECOVER:
        return latest.recovery is RecoveryState.DONE and latest.verdict in _OVER
    return latest.state in CLOSED_FOR_GOOD or (latest.crashed and latest.tag == entry.tag)


#: Verdicts after which the gate refuses every delivery, whatever is kept.
_OVER = frozenset({VerdictKind.SETTLED, VerdictKind.EXPIRED, VerdictKind.REVOKED})


def goes_on(claim: Claim, latest: Attempt | None, before: Attempt | None) -> Attempt | None:
    """The attempt whose order to stop holds for this granted claim as well: of the same message, given
    back; or of the task itself, which sent this message as its retry, and may not have been heard of since.

    `latest`: the message's latest attempt; `before`: the task's, of whichever message.
    """
    if latest is not None:
        return latest if latest.state in MAY_FOLLOW else None
    sent = before is not None and claim.retries > before.retries and before.state in OPEN | MAY_FOLLOW
    return before if sent else None


def comes_back(*, ran: bool, losses: int, loss_budget: int, on_lost: OnLost) -> bool:
    """Whether a lost attempt is to run again, by all that the registry knows of it."""
    if not ran:
        return True
    return losses <= loss_budget and on_lost is OnLost.RESEND


def _open(latest: Latest, newer: bool) -> Decision:
    if latest.owner is Owner.SELF:
        if latest.state is State.CLAIMED and not latest.dispatched:
            if newer:
                return Decision(Ruling.REGRANT)
            return Decision(Ruling.PARK, "this worker holds another delivery of it")
        return Decision(Ruling.PARK, "this worker runs it")
    safe = latest.state is State.RUNNING and latest.kept and latest.owner is Owner.RENEWING
    if safe:
        return Decision(Ruling.REFUSE, "copy: runs elsewhere under a valid lease")
    return Decision(Ruling.PARK, "an earlier delivery of it is still open")


def _lost(latest: Latest) -> Decision:
    if latest.recovery is None or latest.recovery is RecoveryState.PENDING:
        return _undecided(latest)
    if latest.recovery is RecoveryState.HELD and latest.dead_lettered:
        return Decision(Ruling.GRANT)  # its queue's owner has sent it back
    if latest.recovery in WAITS_FOR_A_PERSON:
        return _for_a_person(latest, latest.recovery.value)
    if latest.verdict in BRINGS_BACK:
        return Decision(Ruling.GRANT)
    if latest.verdict is VerdictKind.FAIL:
        return _for_a_person(latest, "failed by policy")
    if latest.recovery is RecoveryState.DONE:
        return Decision(Ruling.REFUSE, f"finished: {latest.verdict}")
    return Decision(Ruling.PARK, "its recovery is under way")


def _undecided(latest: Latest) -> Decision:
    """A body that began may have ended, and only a courier can ask for its result."""
    again = comes_back(
        ran=latest.ran, losses=latest.losses, loss_budget=latest.loss_budget, on_lost=latest.on_lost
    )
    if again and (not latest.ran or latest.undecided_ms >= UNDECIDED_MS):
        return Decision(Ruling.GRANT)
    return Decision(Ruling.PARK, "its loss is not decided yet")


def _for_a_person(latest: Latest, reason: str) -> Decision:
    """The delivery may be destroyed only if the registry can send the task again."""
    if latest.kept:
        return Decision(Ruling.REFUSE, reason)
    return Decision(Ruling.PUT_BACK, f"{reason}, and its message is not kept")


def _finished(latest: Latest, is_copy: bool) -> Decision:
    """A task that was stopped runs again only if a person recovers it."""
    if is_copy and latest.verdict is not VerdictKind.RECOVER:
        return Decision(Ruling.REFUSE, f"finished: {latest.state.value}")
    return Decision(Ruling.GRANT)


def has_journal(pulse: Any) -> bool:
    """Whether a worker's last heartbeat says that its journal holds what the registry does not."""
    return isinstance(pulse, dict) and bool(pulse.get("journal"))
