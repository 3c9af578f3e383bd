"""Losses, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from crisper.core.gate import Past, is_left_over
from crisper.core.model import Case, Entry, Recovery
from crisper.core.states import RecoveryState, State, VerdictKind, WorkerState
from crisper.core.text import as_json, key, storable_entry
from crisper.core.verdict import Judgement, Verdict
from crisper.store import cases
from crisper.store.base import Closed
from crisper.store.rows import IS_OPEN, among
from crisper.store.sql.parts import Parts, verb

#: Tasks that one question is about, at most.
LOOK_AT = 256

#: Attempts of one incarnation, by their tasks, which are indexed, and the numbers of their claims.
_THESE = "task_id {tasks} AND incarnation = ? AND seq {seqs}"
_LOSE = f"""
UPDATE crisper_attempt
   SET state = 'lost', finished_at = ?, closed_seq = ?, counted = ?, reason = ?
 WHERE {_THESE} AND lower(state) IN ('claimed', 'running')"""


#: Losses are counted since a person last recovered the task, up to this attempt:
#: whichever of two open attempts is closed first, the counts are the same.
_OPEN_RECOVERIES = f"""
INSERT INTO crisper_recovery
       (task_id, number, message_id, name, scope, state, version, cause, losses, evidence, created_at)
SELECT a.task_id, a.number, a.message_id, a.name, i.scope, 'pending', 1, ?,
       (SELECT count(*) FROM crisper_attempt l
         WHERE l.task_id = a.task_id AND l.counted AND l.number <= a.number AND l.number > COALESCE(
               (SELECT max(r.number) FROM crisper_recovery r
                 WHERE r.task_id = a.task_id AND r.verdict = 'recover'), 0)),
       ?, ?
  FROM crisper_attempt a JOIN crisper_incarnation i ON i.id = a.incarnation
 WHERE a.{_THESE} AND lower(a.state) = 'lost'
ON CONFLICT DO NOTHING"""


#: The losses of attempts that this very transaction closed.
_LOST_EVENTS = f"""
INSERT INTO crisper_event (at, kind, task_id, number, incarnation, seq, actor, data)
SELECT ?, 'lost', task_id, number, incarnation, NULL, ?, ? FROM crisper_attempt
 WHERE {_THESE} AND lower(state) = 'lost'"""


CLOSE_ORDER = "UPDATE crisper_order SET done_at = ? WHERE task_id = ? AND number = ? AND done_at IS NULL"


class Recoveries(Parts):
    """The verbs of sweepers and couriers."""

    def left_over(self, entries: Sequence[Entry]) -> list[bool]:
        entries = [*map(storable_entry, entries)]
        tasks = sorted({one.task_id for one in entries})
        past: dict[str, list[Past]] = {task_id: [] for task_id in tasks}
        with self.db.write():
            for at in range(0, len(tasks), LOOK_AT):
                for task_id, one in self._past(tasks[at : at + LOOK_AT]):
                    past[task_id].append(one)
        return [is_left_over(one, past[one.task_id]) for one in entries]

    def _past(self, tasks: Sequence[str]) -> Iterator[tuple[str, Past]]:
        """All that is on record of these tasks."""
        these, ids = among(tasks)
        rows = self.db.rows(
            "SELECT a.task_id, a.number, a.message_id, a.tag, a.state, r.state, r.verdict, i.state"
            " FROM crisper_attempt a"
            " LEFT JOIN crisper_recovery r ON r.task_id = a.task_id AND r.number = a.number"
            " LEFT JOIN crisper_incarnation i ON i.id = a.incarnation"
            f" WHERE a.task_id {these}",
            *ids,
        )
        for task_id, number, message_id, tag, state, recovery, verdict, worker in rows:
            yield task_id, Past(
                number, message_id, tag, State(state),
                RecoveryState(recovery) if recovery else None,
                VerdictKind(verdict) if verdict else None,
                worker == WorkerState.LOST,
            )  # fmt: skip

    @verb
    def close_lost(self, id: str, *, by: str, limit: int = 500) -> Closed:
        with self.db.write():
            owner = self._workers("id = ? AND state <> 'alive'", id)
            if not owner:
                return Closed((), False)
            now = self.now()
            picked = self.db.rows(
                "SELECT task_id, seq, (state = 'running' OR dispatched) FROM crisper_attempt"
                f" WHERE incarnation = ? AND {IS_OPEN} ORDER BY seq LIMIT ?{self.db.skip}",
                id,
                limit,
            )
            crashed = owner[0].state is WorkerState.LOST
            cause = "worker" if crashed else "shutdown"
            evidence = {"worker": owner[0].hostname, **owner[0].evidence}
            for counted in (True, False):  # what one loss counts of the task's others is on record first
                these = [(task, seq) for task, seq, ran in picked if bool(ran and crashed) is counted]
                self._lose(now, id, these, counted=counted, cause=cause, by=by, evidence=evidence)
            more = bool(
                self.db.rows(f"SELECT 1 FROM crisper_attempt WHERE incarnation = ? AND {IS_OPEN} LIMIT 1", id)
            )
            if not more:
                self.db.run("UPDATE crisper_incarnation SET cleared = TRUE WHERE id = ?", id)
        return Closed(tuple(task for task, _, _ in picked), more)

    def _lose(
        self,
        now: int,
        incarnation: str,
        attempts: Sequence[tuple[str, int]],
        *,
        closing: int | None = None,
        counted: bool,
        cause: str,
        by: str,
        evidence: dict[str, Any],
    ) -> int:
        """Close open attempts, by task and claim, as lost, each with its recovery; how many were open."""
        if not attempts:
            return 0
        tasks, ids = among([task for task, _ in attempts])
        seqs, numbers = among([seq for _, seq in attempts])
        these, text = (*ids, incarnation, *numbers), as_json(evidence)

        def of_these(statement: str, *params: Any) -> int:
            return self.db.run(statement.format(tasks=tasks, seqs=seqs), *params, *these)

        lost = of_these(_LOSE, now, closing, counted, f"lost: {cause}")
        if lost:
            of_these(_OPEN_RECOVERIES, cause, text, now)
            of_these(_LOST_EVENTS, now, by, text)
            self._stop_lost_ones(now, incarnation)
        return lost

    def _stop_lost_ones(self, now: int, incarnation: str) -> None:
        """What was lost before its worker could stop it is not brought back."""
        ordered = self.db.rows(
            "SELECT o.task_id, o.number, o.ordered_by, o.reason FROM crisper_order o JOIN crisper_recovery r"
            " ON r.task_id = o.task_id AND r.number = o.number AND r.state = 'pending'"
            " WHERE o.incarnation = ? AND o.done_at IS NULL",
            incarnation,
        )
        for task_id, number, by, reason in ordered:
            recovery = self._recovery_of(task_id, number)
            verdict = Verdict(VerdictKind.REVOKED, reason, recovery.evidence)
            cases.decide(self, [Judgement(recovery, verdict, 0)], by=by)
            self.db.run(CLOSE_ORDER, now, task_id, number)

    @verb
    def take_cases(self, courier: str, scope: str, *, limit: int, again: bool = False) -> list[Case]:
        with self.db.write():
            return cases.take(self, courier, scope, limit, again)

    def case(self, task_id: str, number: int) -> Case | None:
        with self.db.write():
            return cases.case(self, key(task_id), number)

    @verb
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
        judgement = Judgement(recovery, Verdict(verdict, reason, evidence), due_in_ms)
        with self.db.write():
            return cases.decide(self, [judgement], by=by)[0]

    @verb
    def decide_all(self, judgements: Sequence[Judgement], *, by: str) -> list[Recovery | None]:
        with self.db.write():
            return cases.decide(self, judgements, by=by)

    @verb
    def complete(self, recovery: Recovery, *, by: str, data: dict[str, Any]) -> bool:
        with self.db.write():
            return cases.complete(self, [(recovery, data)], by=by)[0]

    @verb
    def complete_all(self, recoveries: Sequence[Recovery], *, by: str) -> list[bool]:
        with self.db.write():
            return cases.complete(self, [(one, {"reason": one.reason}) for one in recoveries], by=by)

    @verb
    def give_up_case(self, recovery: Recovery, *, by: str, why: str, due_in_ms: int) -> bool:
        with self.db.write():
            return cases.give_up(self, recovery, by, why, due_in_ms)
