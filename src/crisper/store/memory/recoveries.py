"""Losses, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from crisper.core.gate import Past, is_left_over
from crisper.core.model import Attempt, Case, Entry, Message, Recovery
from crisper.core.states import (
    STANDS,
    UNDER_WAY,
    VERDICT_MOVES,
    RecoveryState,
    State,
    VerdictKind,
    WorkerState,
    may_decide,
)
from crisper.core.text import key, storable, storable_entry
from crisper.core.verdict import Judgement, is_same_verdict, superseded_or_finished
from crisper.store.base import Closed
from crisper.store.memory.tables import Tables, changed, plain

#: As on a server: how long a courier has a case to itself.
CASE_MS = 60_000


class Recoveries(Tables):
    """The verbs of sweepers and couriers."""

    def left_over(self, entries: Sequence[Entry]) -> list[bool]:
        with self._lock:
            return [is_left_over(one, self._past(one.task_id)) for one in map(storable_entry, entries)]

    def _past(self, task_id: str) -> Iterator[Past]:
        for a in self._attempts.get(task_id, ()):
            r = self._recoveries.get((a.task_id, a.number))
            recovery, verdict = (r.state, r.verdict) if r else (None, None)
            worker = self._workers.get(a.incarnation)
            crashed = worker is not None and worker.state is WorkerState.LOST
            yield Past(a.number, a.message_id, a.tag, a.state, recovery, verdict, crashed)

    def close_lost(self, id: str, *, by: str, limit: int = 500) -> Closed:
        with self._lock:
            owner = self._workers.get(id)
            if owner is None or owner.state is WorkerState.ALIVE:
                return Closed((), False)
            crashed = owner.state is WorkerState.LOST
            cause = "worker" if crashed else "shutdown"
            evidence = {"worker": owner.hostname, **owner.evidence}
            picked = [self._at(*place) for _, place in sorted(self._held[id].items())[:limit]]
            for attempt in picked:
                ran = attempt.state is State.RUNNING or attempt.dispatched
                self._lose(attempt, None, ran and crashed, cause, by, evidence)
            if not self._held[id]:
                self._change(id, cleared=True)
            return Closed(tuple(a.task_id for a in picked), bool(self._held[id]))

    def _lose(
        self, attempt: Attempt, closing: int | None, counted: bool, cause: str, by: str,
        evidence: dict[str, Any],
    ) -> None:  # fmt: skip
        now, task = self._clock(), attempt.task_id
        del self._held[attempt.incarnation][attempt.seq]
        self._set(
            attempt, state=State.LOST, finished_at=now, closed_seq=closing, counted=counted,
            reason=f"lost: {cause}",
        )  # fmt: skip
        recovered = [r.number for r in self.recoveries(task) if r.verdict is VerdictKind.RECOVER]
        numbers = range(max(recovered, default=0) + 1, attempt.number + 1)
        losses = sum(a.counted and a.number in numbers for a in self._attempts[task])
        scope = self._workers[attempt.incarnation].scope
        self._recoveries[task, attempt.number] = Recovery(
            task, attempt.number, attempt.message_id, attempt.name, scope, RecoveryState.PENDING, 1,
            cause, losses, None, None, plain(evidence), None, None, now, None, None, None, None,
        )  # fmt: skip
        self._event(
            now, "lost", actor=by, task_id=task, number=attempt.number,
            incarnation=attempt.incarnation, data=evidence,
        )  # fmt: skip
        order = self._orders.get((task, attempt.number))
        if order and not order.done:
            order.done = True
            recovery = self._recoveries[task, attempt.number]
            self.decide(
                recovery, VerdictKind.REVOKED, order.reason, recovery.evidence, by=order.by, due_in_ms=0
            )

    def take_cases(self, courier: str, scope: str, *, limit: int, again: bool = False) -> list[Case]:
        with self._lock:
            now, mine = self._clock(), courier if again else ""
            under_way = [r for r in self._recoveries.values() if r.state in UNDER_WAY and r.scope == scope]
            found = [r for r in under_way if self._free(r, now, mine)]
            found.sort(key=lambda r: (r.created_at, r.task_id, r.number))
            taken = [self._move(r, courier=courier, due_at=now + CASE_MS) for r in found[:limit]]
            return [case for r in taken if (case := self.case(r.task_id, r.number))]

    def _free(self, recovery: Recovery, now: int, mine: str) -> bool:
        if recovery.due_at is None or recovery.due_at <= now:
            return True
        courier = self._workers.get(recovery.courier or "")
        dead = courier is not None and courier.state is not WorkerState.ALIVE
        return (dead or recovery.courier == mine) and recovery.state is not RecoveryState.WAITING

    def case(self, task_id: str, number: int) -> Case | None:
        with self._lock:
            recovery = self._recoveries.get((key(task_id), number))
            if recovery is None:
                return None
            attempt = self._at(recovery.task_id, number)
            gone = Message(None, "{}", attempt.message_size, attempt.why_not_kept)
            seen = [
                (a.number, a.retries, a.state, r.verdict if r else None)
                for a in self._attempts[recovery.task_id]
                for r in [self._recoveries.get((a.task_id, a.number))]
            ]
            return Case(
                recovery,
                attempt,
                self._messages.get((recovery.task_id, number), gone),
                *superseded_or_finished(number, attempt.retries, seen),
                recovery.state is RecoveryState.WAITING,
            )

    def decide(
        self,
        recovery: Recovery,
        verdict: VerdictKind,
        reason: str,
        evidence: dict[str, Any],
        *,
        by: str,
        due_in_ms: int | None = None,
    ) -> Recovery | None:
        state, reason, by = VERDICT_MOVES[verdict], storable(reason), storable(by)
        if not may_decide(recovery.state, verdict):
            raise ValueError(f"a recovery that is {recovery.state} cannot be decided as {verdict}")
        with self._lock:
            if not self._unmoved(recovery):
                stands = self._recoveries.get((recovery.task_id, recovery.number))
                return stands if stands and is_same_verdict(recovery, stands, verdict, by) else None
            now, over = self._clock(), state is RecoveryState.DONE
            decided = self._move(
                recovery, state=state, verdict=verdict, reason=reason, evidence=plain(evidence),
                decided_by=by, decided_at=now, due_at=now + (CASE_MS if due_in_ms is None else due_in_ms),
                done_at=now if over else None,
            )  # fmt: skip
            self._verdict_event(now, recovery, verdict, reason, by, evidence)
            if over and verdict is not VerdictKind.DISCARD:
                self._messages.pop((recovery.task_id, recovery.number), None)
            return decided

    def decide_all(self, judgements: Sequence[Judgement], *, by: str) -> list[Recovery | None]:
        with self._lock:
            return [
                self.decide(recovery, *verdict, by=by, due_in_ms=due) for recovery, verdict, due in judgements
            ]

    def complete(self, recovery: Recovery, *, by: str, data: dict[str, Any]) -> bool:
        with self._lock:
            if not self._unmoved(recovery) or recovery.state is not RecoveryState.DECIDED:
                return False
            now = self._clock()
            self._move(recovery, state=RecoveryState.DONE, sent_at=now, done_at=now)
            self._event(
                now, "recovered", actor=by, task_id=recovery.task_id, number=recovery.number,
                data={"action": recovery.verdict, **data},
            )  # fmt: skip
            return True

    def complete_all(self, recoveries: Sequence[Recovery], *, by: str) -> list[bool]:
        with self._lock:
            return [self.complete(one, by=by, data={"reason": one.reason}) for one in recoveries]

    def give_up_case(self, recovery: Recovery, *, by: str, why: str, due_in_ms: int) -> bool:
        with self._lock:
            if not self._unmoved(recovery):
                return False
            now = self._clock()
            changes: dict[str, Any] = {"courier": None, "due_at": now + due_in_ms}
            if recovery.state is RecoveryState.DECIDED and recovery.verdict not in STANDS:
                changes |= {
                    "state": RecoveryState.PENDING,
                    "verdict": None,
                    "decided_by": None,
                    "decided_at": None,
                }
            self._move(recovery, **changes)
            self._event(
                now, "recovery_delayed", actor=by, task_id=recovery.task_id, number=recovery.number,
                data={"why": why},
            )  # fmt: skip
            return True

    def _unmoved(self, seen: Recovery) -> bool:
        now = self._recoveries.get((seen.task_id, seen.number))
        return now is not None and (now.version, now.state) == (seen.version, seen.state)

    def _move(self, recovery: Recovery, **changes: Any) -> Recovery:
        place = recovery.task_id, recovery.number
        moved = changed(self._recoveries[place], {"version": recovery.version + 1, **changes})
        self._recoveries[place] = moved
        return moved
