"""The laws that hold at every commit (design, section 7). Each is told what is about to change, or has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crisper.core.gate import has_journal
from crisper.core.model import Attempt, Checkpoint, Claim, Recovery
from crisper.core.states import (
    BRINGS_BACK,
    CLOSED_FOR_GOOD,
    MOVES,
    OPEN,
    RECOVERY_MOVES,
    WAITS_FOR_A_PERSON,
    OnLost,
    RecoveryState,
    State,
    VerdictKind,
    WorkerState,
)
from crisper.engine.adoption import AFTERLIFE

if TYPE_CHECKING:
    from crisper.testing.simulate.registry import Registry

#: After these nothing of the task is left to run.
OVER = (VerdictKind.SETTLED, VerdictKind.EXPIRED, VerdictKind.REVOKED, VerdictKind.DISCARD)


def moves(registry: Registry, attempt: Attempt, changes: dict[str, Any]) -> None:
    """I3, I5: along the table, and never once it is closed."""
    to = changes.get("state", attempt.state)
    if attempt.state not in OPEN:
        _broken(registry, "I3", f"{_name(attempt)} is {attempt.state} and changes: {changes}")
    elif to is not attempt.state and to not in MOVES[attempt.state]:
        _broken(registry, "I3", f"{_name(attempt)} moves from {attempt.state} to {to}")


def recovery_moves(registry: Registry, recovery: Recovery, changes: dict[str, Any]) -> None:
    """I3, of recoveries."""
    to = changes.get("state", recovery.state)
    back = (recovery.state, to) == (RecoveryState.DECIDED, RecoveryState.PENDING)
    if to is not recovery.state and to not in RECOVERY_MOVES[recovery.state] and not back:
        _broken(registry, "I3", f"the recovery of {recovery.message_id} moves {recovery.state} to {to}")


def ends(registry: Registry, id: str, state: WorkerState, by: str, evidence: dict[str, Any]) -> None:
    """I1: by proof only what is gone; by silence only after a full lease on the declarer's own clock, and
    never while the incarnation itself may believe in its lease."""
    if state is not WorkerState.LOST:
        return
    world, worker, life = registry.world, registry._workers[id], registry.truth[id.lstrip(AFTERLIFE)]
    if evidence.get("how") != "silence":
        if life.is_running():
            _broken(registry, "I1", f"{id} is declared lost by {by}, and runs: {evidence}")
        return
    silent = (world.now - registry.renewed[id]) * registry.observers[by].rate
    if silent < worker.lease_ms - 2:  # clocks are read in whole milliseconds
        _broken(registry, "I1", f"{id} renewed {silent:.0f} ms ago and is declared silent by {by}")
    if life.trusts(id):
        _broken(registry, "I1", f"{id} believes in its lease and is declared silent by {by}")
    if life.is_running():
        world.history.seen("a live worker that is fenced")


def grants(registry: Registry, me: str, claim: Claim) -> None:
    """I2, I9: nothing else of the message is open, and it is not over."""
    same = registry.of_message(claim.task_id, claim.message_id)
    for attempt in same:
        if attempt.state in OPEN:
            _broken(registry, "I2", f"{claim.message_id} is granted to {me}, and {_name(attempt)} is open")
        if attempt.state in CLOSED_FOR_GOOD:
            _broken(registry, "I9", f"{claim.message_id} is granted to {me}, and was {attempt.state}")
    if not same and claim.redelivered and not claim.provisional:
        _ended_by_a_journal(registry, me, claim)
    recovery = registry.recovery_of(same[-1]) if same else None
    if recovery is None:
        return
    if recovery.state in WAITS_FOR_A_PERSON or (
        recovery.verdict is not None and recovery.verdict not in BRINGS_BACK
    ):
        _broken(registry, "I9", f"{claim.message_id} is granted to {me}, and its recovery is"
                f" {recovery.state} by {recovery.verdict}")  # fmt: skip


def _ended_by_a_journal(registry: Registry, me: str, claim: Claim) -> None:
    """I9, of what is not on record yet: its worker lives, and has said that it has a journal to replay."""
    for body in registry.world.history.bodies.get(claim.message_id, ()):
        worker = registry._workers.get(body.incarnation)
        if worker is None or worker.id == me or worker.state is not WorkerState.ALIVE:
            continue
        if body.outcome in CLOSED_FOR_GOOD and has_journal(worker.pulse):
            _broken(registry, "I9", f"{claim.message_id} is granted to {me}, and the journal of"
                    f" {body.process} tells that it {body.outcome}")  # fmt: skip


def refuses(registry: Registry, claim: Claim) -> None:
    """I9: the delivery will be destroyed."""
    if not safe_to_destroy(registry, claim.task_id, claim.message_id):
        _broken(registry, "I9", f"a delivery of {claim.message_id} is refused, and it may be the last")


def safe_to_destroy(registry: Registry, task_id: str, message_id: str) -> bool:
    """Whether the task cannot be lost by it: finished, running with its message kept, or kept."""
    same = registry.of_message(task_id, message_id)
    if not same:
        return False
    latest = same[-1]
    if any(attempt.state in CLOSED_FOR_GOOD for attempt in same):
        return True
    recovery = registry.recovery_of(latest)
    if recovery is not None:
        if recovery.verdict in OVER:
            return True
        waits = recovery.state in WAITS_FOR_A_PERSON or recovery.verdict is VerdictKind.FAIL
        return registry.keeps(latest) and (waits or latest.copy_refused)
    return latest.state is State.RUNNING and registry.keeps(latest)


def saves(registry: Registry, me: str, made: Checkpoint, attempt: Attempt | None) -> None:
    """I4: a checkpoint counts while its attempt is open, and its incarnation not declared lost."""
    if attempt is None or attempt.state not in OPEN or registry.is_over(me):
        state = "not on record" if attempt is None else f"{attempt.state} or fenced"
        _broken(registry, "I4", f"a checkpoint of {made.task_id} is kept, and its attempt is {state}")


def goes_on(registry: Registry, claim: Claim, number: int, checkpoint: str) -> None:
    """It begins from the last checkpoint on record, which is none that a fenced attempt kept later; after a
    success, from the beginning."""
    of, last = 0, ""
    for by, data in registry.saved.get(claim.task_id, ()):
        of, last = by, data
    attempts = registry._attempts[claim.task_id]
    if number == 1 or any(a.state is State.SUCCEEDED and a.number >= of for a in attempts):
        last = ""
    if checkpoint != last:
        _broken(registry, "checkpoint", f"attempt {number} of {claim.task_id} is to begin from"
                f" {checkpoint or 'none'}, and the last one is {last or 'none'}")  # fmt: skip


def loses(registry: Registry, attempt: Attempt) -> None:
    """One recovery per lost attempt."""
    if registry.recovery_of(attempt) is not None:
        _broken(registry, "I2", f"{_name(attempt)} gets a second recovery")


def decides(registry: Registry, recovery: Recovery) -> None:
    """I8, I10: with its event, settled only by the truth, quarantined exactly over budget."""
    event = registry._events[-1]
    told = (event.kind, event.task_id, event.number, event.data.get("verdict"))
    if told != ("verdict", recovery.task_id, recovery.number, recovery.verdict) and not any(
        (e.kind, e.task_id, e.number, e.data.get("verdict"))
        == ("verdict", recovery.task_id, recovery.number, recovery.verdict)
        for e in registry._events
    ):
        _broken(registry, "I8", f"{recovery.message_id}: {recovery.verdict} has no event")
    bodies = registry.world.history.of_task.get(recovery.task_id, ())
    ended = any(body.ended is not None or body.retried for body in bodies)
    if recovery.verdict is VerdictKind.SETTLED and not ended:
        _broken(registry, "I6", f"{recovery.message_id} is settled, and no body of it ended")
    attempts = registry._attempts[recovery.task_id]
    losses = recovery.losses  # as they were known: an earlier attempt may be found lost after this one
    one = attempts[recovery.number - 1]
    over = one.ran and losses > one.loss_budget
    quarantined = recovery.verdict is VerdictKind.QUARANTINE
    if quarantined != over and recovery.verdict not in OVER:
        _broken(
            registry, "I10", f"{_name(one)}: {losses} losses, budget {one.loss_budget}, {recovery.verdict}"
        )
    runs_again = recovery.verdict in (VerdictKind.RESEND, VerdictKind.HAND_BACK)
    if runs_again and not one.acks_late and one.started_at is not None and one.on_lost is not OnLost.RESEND:
        _broken(registry, "consent", f"{_name(one)} had begun, and runs again without consent")


def _name(attempt: Attempt) -> str:
    return f"attempt {attempt.number} of {attempt.message_id}"


def _broken(registry: Registry, law: str, sentence: str) -> None:
    registry.world.history.broken(law, sentence)
