"""The gate: who may run a delivery."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from crisper.core.gate import (
    DOUBTED,
    Decision,
    Latest,
    Owner,
    Ruling,
    goes_on,
    has_journal,
    rule,
    ruled_later,
)
from crisper.core.model import Answer, Attempt, Claim, Recovery
from crisper.core.states import HAVE_RECOVERIES, RecoveryState, State, VerdictKind, WorkerState
from crisper.core.verdict import DEAD_LETTERED, stopped_by
from crisper.store.memory.incarnations import Incarnations
from crisper.store.memory.outcomes import Outcomes


class Claims(Outcomes, Incarnations):
    """A claim is ruled upon by what is on record of its task."""

    def _claim(self, me: str, claim: Claim, renewing: Collection[str] | None) -> Answer:
        before = [
            a for a in self._attempts.get(claim.task_id, ()) if (a.incarnation, a.seq) == (me, claim.seq)
        ]
        if before:
            return self._granted(claim, before[0].number)
        for event in self._events if (me, claim.seq) in self._once else ():
            if (event.incarnation, event.seq) == (me, claim.seq) and event.kind in ("refused", "overlap"):
                return Answer(claim.seq, event.kind, event.number or 0, event.data.get("reason", ""))
        for a in self._attempts.get(claim.task_id, ()):
            if (a.incarnation, a.seq) == (claim.provisional, claim.seq):
                return Answer(claim.seq, "overlap", a.number, "it was on record, and is fenced")
        same = [a for a in self._attempts.get(claim.task_id, ()) if a.message_id == claim.message_id]
        latest = same[-1] if same else None
        doubted = claim.redelivered and not claim.provisional and renewing is not None
        if latest is None and doubted and self._somebody_is_unheard(me, renewing or ()):
            return Answer(claim.seq, "parked", 0, DOUBTED)
        facts = self._latest(latest, me, renewing or (), claim.age_ms) if latest else None
        decision = rule(
            facts,
            redelivered=claim.redelivered,
            identified=claim.identified,
            newer=latest is None or (claim.seq > latest.seq and not claim.copy),
        )
        if claim.provisional:
            decision = ruled_later(decision, facts, given_back=claim.given_back)
        return self._carry_out(me, claim, decision, latest)

    def _somebody_is_unheard(self, me: str, renewing: Collection[str]) -> bool:
        scope = self._workers[me].scope
        others = [w for w in self.alive() if w.scope == scope and w.id != me]
        return any(w.id not in renewing or has_journal(w.pulse) for w in others)

    def _latest(self, attempt: Attempt, me: str, renewing: Collection[str], waited_ms: int) -> Latest:
        recovery = self._recoveries.get((attempt.task_id, attempt.number))
        moved = attempt.incarnation in renewing
        return Latest(
            number=attempt.number,
            state=attempt.state,
            owner=Owner.SELF if attempt.incarnation == me else Owner.RENEWING if moved else Owner.UNJUDGED,
            dispatched=attempt.dispatched,
            kept=self._kept(attempt.task_id, attempt.number),
            on_lost=attempt.on_lost,
            ran=attempt.counted,
            losses=recovery.losses if recovery else 0,
            loss_budget=attempt.loss_budget,
            recovery=recovery.state if recovery else None,
            verdict=recovery.verdict if recovery else None,
            undecided_ms=min(waited_ms, self._clock() - recovery.created_at) if recovery else 0,
            dead_lettered=bool(recovery and recovery.evidence.get(DEAD_LETTERED)),
        )

    def _carry_out(self, me: str, claim: Claim, decision: Decision, latest: Attempt | None) -> Answer:
        if decision.ruling is Ruling.GRANT:
            return self._granted(claim, self._grant(me, claim, latest))
        if decision.ruling is Ruling.REGRANT and latest:
            del self._held[me][latest.seq]
            self._set(latest, seq=claim.seq, tag=claim.tag, dispatched=claim.dispatched)
            self._held[me][claim.seq] = (latest.task_id, latest.number)
            return self._granted(claim, latest.number)
        if decision.ruling is Ruling.REFUSE and latest:
            return self._refuse(me, claim, decision.reason, latest)
        if decision.ruling is Ruling.OVERLAP and latest:
            return self._no_attempt(me, "overlap", claim, decision.reason, latest)
        return Answer(claim.seq, decision.ruling.value, 0, decision.reason)

    def _granted(self, claim: Claim, number: int) -> Answer:
        order = self._orders.get((claim.task_id, number))
        if order is None or order.done:
            last = self._last_checkpoint(claim.task_id, number)
            return Answer(claim.seq, "granted", number, checkpoint=last)
        return Answer(claim.seq, "stopped", number, stopped_by(order.by, order.reason))

    def _grant(self, me: str, claim: Claim, latest: Attempt | None) -> int:
        recovery = self._recoveries.get((latest.task_id, latest.number)) if latest else None
        if recovery and recovery.state is not RecoveryState.DONE:
            self._overtake(me, recovery)
        known = self._attempts.setdefault(claim.task_id, [])
        number, message = len(known) + 1, claim.message
        followed = goes_on(claim, latest, known[-1] if known else None)
        order = self._orders.get((followed.task_id, followed.number)) if followed else None
        if followed and order and not order.done:
            del self._orders[followed.task_id, followed.number]
            self._orders[claim.task_id, number] = replace(order, incarnation=me)
        known.append(
            Attempt(
                claim.task_id, number, claim.message_id, claim.name, claim.queue, me, claim.seq,
                State.CLAIMED, claim.acks_late, claim.dispatched, claim.redelivered, claim.retries,
                claim.tag, False, None, None, claim.on_lost, claim.loss_budget,
                self._clock() - claim.age_ms, None, None, None, None, False, None, message.size,
                message.why_not,
            )
        )  # fmt: skip
        self._messages[claim.task_id, number] = message
        self._held[me][claim.seq] = (claim.task_id, number)
        if latest and latest.state in HAVE_RECOVERIES and message.body is not None:
            for one in known[:-1]:
                if one.message_id == claim.message_id and one.state in HAVE_RECOVERIES:
                    self._messages.pop((one.task_id, one.number), None)
        return number

    def _overtake(self, me: str, recovery: Recovery) -> None:
        now = self._clock()
        verdict = recovery.verdict or VerdictKind.REDELIVERED
        reason = recovery.reason or "the broker delivered its message again"
        self._move(
            recovery,
            state=RecoveryState.DONE,
            verdict=verdict,
            reason=reason,
            done_at=now,
            decided_by=recovery.decided_by or "gate",
            decided_at=recovery.decided_at or now,
        )
        if recovery.verdict is None:
            self._verdict_event(
                now, recovery, verdict, reason, "gate", {"claimed_by": me, **recovery.evidence}
            )

    def _refuse(self, me: str, claim: Claim, reason: str, latest: Attempt) -> Answer:
        if latest.state is State.RUNNING:
            if self._workers[latest.incarnation].state is not WorkerState.ALIVE:
                return Answer(claim.seq, "parked", 0, "its registry rows keep moving")
            self._set(latest, copy_refused=True)
        return self._no_attempt(me, "refused", claim, reason, latest)

    def _no_attempt(self, me: str, kind: str, claim: Claim, reason: str, latest: Attempt) -> Answer:
        self._event(
            self._clock() - claim.age_ms, kind, actor="gate", task_id=claim.task_id,
            number=latest.number, incarnation=me, seq=claim.seq,
            data={"reason": reason, "redelivered": claim.redelivered},
        )  # fmt: skip
        return Answer(claim.seq, kind, latest.number, reason)
