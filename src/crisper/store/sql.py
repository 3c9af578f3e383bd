"""The store's verbs in SQL that PostgreSQL and SQLite both speak.

The dialects differ in how a transaction begins, how rows are locked and what
their clock is called: `Database` holds those. Statements are plain text and not
built by a library, because the recorder that runs them must stay small.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar

from crisper.core.gate import Decision, Latest, Owner, Ruling, rule
from crisper.core.model import (
    Answer,
    Attempt,
    Case,
    ChildLost,
    Claim,
    Fence,
    Finish,
    Incarnation,
    Message,
    Note,
    Pulse,
    Record,
    Recovery,
    Start,
    Worker,
)
from crisper.core.order import segments
from crisper.core.states import (
    VERDICT_MOVES,
    WAITS_FOR_A_PERSON,
    OnLost,
    RecoveryState,
    State,
    VerdictKind,
    WorkerState,
    may_decide,
    recoverable,
)
from crisper.core.text import as_json, key, storable, storable_record
from crisper.core.verdict import Judgement, Verdict, superseded_or_finished
from crisper.errors import Fenced, RegistryUnreachable
from crisper.store.base import Closed, Term

Row = tuple[Any, ...]
P = ParamSpec("P")
T = TypeVar("T")

#: How long a courier has a case to itself before another may take it, in ms of
#: the registry's clock. A crash gives it back sooner: the courier's incarnation
#: is then not alive any more. Longer than any publish that is going to succeed.
CASE_MS = 60_000

#: How often a transaction is tried that the database refuses as a deadlock's victim.
TRIES = 5


class Conflict(Exception):
    """The database refused a transaction that may simply be tried again (deadlock)."""


class Database(Protocol):
    """One connection, and what is peculiar to its dialect."""

    #: Appended to a SELECT: keep the row as it is; take it; take what nobody has.
    share: str
    lock: str
    skip: str

    where: str  # the registry's URL without its password

    def write(self) -> AbstractContextManager[None]:
        """A transaction that commits at the end of the block."""

    def rows(self, sql: str, *params: Any) -> list[Row]: ...

    def run(self, sql: str, *params: Any) -> int:
        """Rows changed."""

    def each(self, sql: str, params: Sequence[Row]) -> list[int]:
        """The statement once per row of params, in few round trips; rows changed by each."""

    def has_table(self, name: str) -> bool: ...

    def now(self) -> str:
        """An SQL expression: milliseconds of the registry's clock."""

    def close(self) -> None: ...

    def abort(self) -> None: ...


_OPEN = "state IN ('claimed', 'running')"

_ATTEMPT = (
    "task_id, number, message_id, name, queue, incarnation, seq, state, acks_late, dispatched,"
    " redelivered, retries, tag, copy_refused, pid, pid_start, on_lost, loss_budget, received_at,"
    " started_at, finished_at, runtime_ms, closed_seq, counted, reason, message_size, why_not_kept"
)
_RECOVERY = (
    "task_id, number, message_id, name, scope, state, version, cause, losses, verdict, reason,"
    " evidence, courier, decided_by, created_at, decided_at, due_at, sent_at, done_at"
)
_WORKER = (
    "id, hostname, scope, host, boot_id, pid_namespace, pid, pid_start, recorder_pid,"
    " recorder_start, lease_ms, heartbeat_ms, state, counter, generation, started_at, seen_at,"
    " ended_at, cleared, evidence, about, pulse"
)

_INSERT_ATTEMPT = f"""
INSERT INTO crisper_attempt ({_ATTEMPT}, args_preview, kwargs_preview, envelope, body)
VALUES (?, ?, ?, ?, ?, ?, ?, 'claimed', ?, ?, ?, ?, ?, FALSE, NULL, NULL, ?, ?, ?,
        NULL, NULL, NULL, NULL, FALSE, NULL, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING"""

_START = """
UPDATE crisper_attempt
   SET state = 'running', dispatched = TRUE, pid = ?, pid_start = ?, started_at = ?
 WHERE task_id = ? AND incarnation = ? AND seq = ? AND state = 'claimed'"""

_DISPATCH = """
UPDATE crisper_attempt SET dispatched = TRUE
 WHERE task_id = ? AND incarnation = ? AND seq = ? AND state = 'claimed'"""

#: A finished task's message is deleted: it can never be needed again.
_FINISH = f"""
UPDATE crisper_attempt
   SET state = ?, reason = ?, runtime_ms = ?, finished_at = ?, closed_seq = ?,
       started_at = COALESCE(started_at, ?), pid = COALESCE(pid, ?),
       envelope = NULL, body = NULL
 WHERE task_id = ? AND incarnation = ? AND seq = ? AND {_OPEN}"""

_EVENT = """
INSERT INTO crisper_event (at, kind, task_id, number, incarnation, seq, actor, data)
VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""

_LOSE = f"""
UPDATE crisper_attempt
   SET state = 'lost', finished_at = ?, closed_seq = ?, counted = ?, reason = ?
 WHERE task_id = ? AND incarnation = ? AND seq = ? AND {_OPEN}"""

#: Losses are counted since a person last recovered the task, up to this attempt:
#: whichever of two open attempts is closed first, the counts are the same.
_OPEN_RECOVERY = """
INSERT INTO crisper_recovery
       (task_id, number, message_id, name, scope, state, version, cause, losses, evidence, created_at)
SELECT a.task_id, a.number, a.message_id, a.name, i.scope, 'pending', 1, ?,
       (SELECT count(*) FROM crisper_attempt l
         WHERE l.task_id = a.task_id AND l.counted AND l.number <= a.number AND l.number > COALESCE(
               (SELECT max(r.number) FROM crisper_recovery r
                 WHERE r.task_id = a.task_id AND r.verdict = 'recover'), 0)),
       ?, ?
  FROM crisper_attempt a JOIN crisper_incarnation i ON i.id = a.incarnation
 WHERE a.task_id = ? AND a.incarnation = ? AND a.seq = ? AND a.state = 'lost'
ON CONFLICT DO NOTHING"""


#: The loss of an attempt that this very transaction closed.
_LOST_EVENT = """
INSERT INTO crisper_event (at, kind, task_id, number, incarnation, seq, actor, data)
SELECT ?, 'lost', task_id, number, incarnation, NULL, ?, ? FROM crisper_attempt
 WHERE task_id = ? AND incarnation = ? AND seq = ? AND state = 'lost'"""


def _verb(
    transaction: Callable[Concatenate[SqlStore, P], T],
) -> Callable[Concatenate[SqlStore, P], T]:
    """One transaction, run again if the database chose it as a deadlock's victim."""

    @functools.wraps(transaction)
    def again(self: SqlStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        for _ in range(TRIES - 1):
            try:
                return transaction(self, *args, **kwargs)
            except Conflict:
                continue
        try:
            return transaction(self, *args, **kwargs)
        except Conflict as exc:
            raise RegistryUnreachable(f"the registry kept refusing a transaction: {exc}") from exc

    return again


class SqlStore:
    """`crisper.store.base.Store` over one `Database`."""

    def __init__(self, database: Database) -> None:
        self.db = database

    def close(self) -> None:
        self.db.close()

    def abort(self) -> None:
        self.db.abort()

    def identity(self) -> str:
        with self.db.write():
            rows = self.db.rows("SELECT value FROM crisper_registry WHERE key = 'id'")
        return str(rows[0][0])

    # -- incarnations ---------------------------------------------------------

    @_verb
    def enroll(self, incarnation: Incarnation) -> Fence:
        one = incarnation
        names = [storable(name) for name in (one.hostname, one.scope, one.host, one.boot_id)]
        with self.db.write():
            now = self._now()
            self.db.run(
                f"INSERT INTO crisper_incarnation ({_WORKER}) VALUES"
                " (?, ?, ?, ?, ?, ?, ?, ?, 0, 0, ?, ?, 'alive', 0, 1, ?, ?, NULL, FALSE, '{}', ?, '{}')"
                " ON CONFLICT DO NOTHING",
                *(one.id, *names, one.pid_namespace),
                *(one.pid, one.pid_start, one.lease_ms, one.heartbeat_ms),
                *(now, now, as_json(one.about)),
            )
            self._event(now, "worker_enrolled", actor=names[0], incarnation=one.id, seq=0)
        return Fence(one.id, 1)

    @_verb
    def replace_recorder(self, fence: Fence) -> Fence | None:
        with self.db.write():
            moved = self.db.run(
                "UPDATE crisper_incarnation SET generation = generation + 1"
                " WHERE id = ? AND generation = ? AND state = 'alive'",
                *fence,
            )
        return Fence(fence.incarnation, fence.generation + 1) if moved else None

    @_verb
    def renew(self, fence: Fence, pulse: Pulse) -> bool:
        with self.db.write():
            renewed = self.db.run(
                "UPDATE crisper_incarnation SET counter = counter + 1, recorder_pid = ?,"
                f" recorder_start = ?, pulse = ?, seen_at = {self.db.now()}"
                " WHERE id = ? AND generation = ? AND state = 'alive'",
                pulse.recorder_pid,
                pulse.recorder_start,
                as_json({"loop_age_ms": pulse.loop_age_ms, **pulse.detail}),
                *fence,
            )
        return bool(renewed)

    def alive(self) -> list[Worker]:
        with self.db.write():
            return self._workers("state = 'alive' AND NOT cleared")

    def uncleared(self) -> list[Worker]:
        with self.db.write():
            return self._workers("state IN ('lost', 'gone') AND NOT cleared")

    def running_processes(self, id: str) -> list[tuple[int, int]]:
        with self.db.write():
            rows = self.db.rows(
                "SELECT DISTINCT pid, pid_start FROM crisper_attempt WHERE incarnation = ?"
                f" AND {_OPEN} AND pid > 0 AND pid_start IS NOT NULL",
                id,
            )
        return [(int(pid), int(start)) for pid, start in rows]

    def declare_lost(self, id: str, counter: int, *, by: str, evidence: dict[str, Any]) -> bool:
        return self._end("lost", evidence, by, id, "counter = ? AND state = 'alive'", counter)

    def declare_own_loss(self, fence: Fence, *, evidence: dict[str, Any]) -> bool:
        return self._end(
            "lost",
            evidence,
            "witness",
            fence.incarnation,
            "generation = ? AND state = 'alive'",
            fence.generation,
        )

    def say_goodbye(self, fence: Fence, *, reason: str) -> bool:
        return self._end(
            "gone",
            {"reason": reason},
            "worker",
            fence.incarnation,
            "generation = ? AND state = 'alive'",
            fence.generation,
        )

    # -- the way of an attempt ------------------------------------------------

    @_verb
    def record(
        self, fence: Fence, records: Sequence[Record], *, renewing: Collection[str] = ()
    ) -> list[Answer]:
        records = [storable_record(record) for record in records]
        with self.db.write():
            now = self._hold(fence)
            if now is None:
                self._keep_late(fence, records)
            else:
                batch = _Batch(self, fence, now, renewing)
                for segment in segments(records):
                    batch.apply(segment)
                return batch.answers_to(records)
        raise Fenced(f"incarnation {fence.incarnation} or its recorder's generation is over")

    def _hold(self, fence: Fence) -> int | None:
        """Keep the incarnation as it is until commit; the registry's time, or None if fenced."""
        rows = self.db.rows(
            f"SELECT {self.db.now()} FROM crisper_incarnation"
            f" WHERE id = ? AND generation = ? AND state = 'alive'{self.db.share}",
            *fence,
        )
        return int(rows[0][0]) if rows else None

    def _keep_late(self, fence: Fence, records: Sequence[Record]) -> None:
        """Only of an incarnation that is over: a replaced recorder's successor gets them again."""
        if self._workers("id = ? AND state = 'alive'", fence.incarnation):
            return
        now = self._now()
        for record in records:
            if isinstance(record, Finish) and self._closed_by(fence, record) != record.seq:
                self._late(now, fence, record, "its incarnation was fenced")

    def _closed_by(self, fence: Fence, record: Finish | ChildLost) -> int | None:
        """The record that closed the attempt, if its incarnation did."""
        rows = self.db.rows(
            "SELECT closed_seq FROM crisper_attempt WHERE task_id = ? AND incarnation = ? AND seq = ?",
            *(record.task_id, fence.incarnation, record.claim_seq),
        )
        return rows[0][0] if rows else None

    def _late(self, now: int, fence: Fence, record: Finish, why: str) -> None:
        self._event(
            now - record.age_ms,
            "late_finish",
            task_id=record.task_id,
            incarnation=fence.incarnation,
            seq=record.seq,
            actor="worker",
            data={
                "state": record.state,
                "reason": record.reason,
                "why": why,
                "runtime_ms": record.runtime_ms,
            },
        )

    # -- losses and recoveries ------------------------------------------------

    @_verb
    def close_lost(self, id: str, *, by: str, limit: int = 500) -> Closed:
        with self.db.write():
            owner = self._workers("id = ? AND state <> 'alive'", id)
            if not owner:
                return Closed((), False)
            now = self._now()
            picked = self.db.rows(
                "SELECT task_id, seq, (state = 'running' OR dispatched) FROM crisper_attempt"
                f" WHERE incarnation = ? AND {_OPEN} ORDER BY seq LIMIT ?{self.db.skip}",
                id,
                limit,
            )
            crashed = owner[0].state is WorkerState.LOST
            cause = "worker" if crashed else "shutdown"
            evidence = {"worker": owner[0].hostname, **owner[0].evidence}
            self._lose(
                now,
                id,
                [(task, seq, None, bool(ran) and crashed) for task, seq, ran in picked],
                cause=cause,
                by=by,
                evidence=evidence,
            )
            more = bool(
                self.db.rows(f"SELECT 1 FROM crisper_attempt WHERE incarnation = ? AND {_OPEN} LIMIT 1", id)
            )
            if not more:
                self.db.run("UPDATE crisper_incarnation SET cleared = TRUE WHERE id = ?", id)
        return Closed(tuple(task for task, _, _ in picked), more)

    def _lose(
        self,
        now: int,
        incarnation: str,
        picked: Sequence[tuple[str, int, int | None, bool]],
        *,
        cause: str,
        by: str,
        evidence: dict[str, Any],
    ) -> list[int]:
        """Close open attempts `(task, seq, closing seq, counted)` as lost, each with its recovery."""
        text = as_json(evidence)
        lost = self.db.each(
            _LOSE,
            [
                (now, closing, counted, f"lost: {cause}", task, incarnation, seq)
                for task, seq, closing, counted in picked
            ],
        )
        won = [row for row, changed in zip(picked, lost, strict=True) if changed]
        self.db.each(
            _OPEN_RECOVERY,
            [(cause, text, now, task, incarnation, seq) for task, seq, _, _ in won],
        )
        self.db.each(
            _LOST_EVENT,
            [(now, by, text, task, incarnation, seq) for task, seq, _, _ in won],
        )
        return lost

    @_verb
    def take_cases(self, courier: str, scope: str, *, limit: int) -> list[Case]:
        with self.db.write():
            now = self._now()
            picked = self.db.rows(
                f"SELECT {_RECOVERY} FROM crisper_recovery r WHERE scope = ? AND ("
                "   state IN ('pending', 'decided', 'waiting') AND (due_at IS NULL OR due_at <= ?)"
                "   OR state IN ('pending', 'decided') AND EXISTS ("
                "      SELECT 1 FROM crisper_incarnation i"
                "       WHERE i.id = r.courier AND i.state <> 'alive'))"
                f" ORDER BY created_at, task_id, number LIMIT ?{self.db.skip}",
                *(scope, now, limit),
            )
            taken = [_recovery(row) for row in picked]
            self.db.each(
                "UPDATE crisper_recovery SET courier = ?, version = version + 1, due_at = ?"
                " WHERE task_id = ? AND number = ? AND version = ?",
                [(courier, now + CASE_MS, r.task_id, r.number, r.version) for r in taken],
            )
            return [case for r in taken if (case := self._case(r.task_id, r.number))]

    def case(self, task_id: str, number: int) -> Case | None:
        with self.db.write():
            return self._case(key(task_id), number)

    def _case(self, task_id: str, number: int) -> Case | None:
        recoveries = self.db.rows(
            f"SELECT {_RECOVERY} FROM crisper_recovery WHERE task_id = ? AND number = ?",
            *(task_id, number),
        )
        attempts = self.db.rows(
            f"SELECT {_ATTEMPT}, body, envelope FROM crisper_attempt WHERE task_id = ? AND number = ?",
            *(task_id, number),
        )
        if not (recoveries and attempts):
            return None
        attempt, recovery = _attempt(attempts[0]), _recovery(recoveries[0])
        body, envelope = attempts[0][-2:]
        message = Message(
            bytes(body) if body is not None else None,
            envelope or "{}",
            attempt.message_size,
            attempt.why_not_kept,
        )
        superseded, finished = self._others(attempt)
        return Case(recovery, attempt, message, superseded, finished, recovery.state is RecoveryState.WAITING)

    def _others(self, attempt: Attempt) -> tuple[bool, bool]:
        """Whether the task's own retry is on record, and whether it ever stored a result before."""
        rows = self.db.rows(
            "SELECT a.number, a.retries, a.state, r.verdict FROM crisper_attempt a"
            " LEFT JOIN crisper_recovery r ON r.task_id = a.task_id AND r.number = a.number"
            " WHERE a.task_id = ?",
            attempt.task_id,
        )
        return superseded_or_finished(attempt.number, attempt.retries, rows)

    @_verb
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
        with self.db.write():
            return self._decide(self._now(), recovery, Verdict(verdict, reason, evidence), due_in_ms, by)

    @_verb
    def decide_all(self, judgements: Sequence[Judgement], *, by: str) -> list[Recovery | None]:
        with self.db.write():
            now = self._now()
            return [self._decide(now, *judgement, by) for judgement in judgements]

    def _decide(
        self, now: int, recovery: Recovery, verdict: Verdict, due_in_ms: int | None, by: str
    ) -> Recovery | None:
        kind, reason, evidence = verdict
        state, reason, by = VERDICT_MOVES[kind], storable(reason), storable(by)
        if not may_decide(recovery.state, kind):
            raise ValueError(f"a recovery that is {recovery.state} cannot be decided as {kind}")
        won = self.db.run(
            "UPDATE crisper_recovery SET state = ?, verdict = ?, reason = ?, evidence = ?,"
            " decided_by = ?, decided_at = ?, due_at = ?, done_at = ?, version = version + 1"
            " WHERE task_id = ? AND number = ? AND version = ? AND state = ?",
            *(state, kind, reason, as_json(evidence), by, now),
            now + (CASE_MS if due_in_ms is None else due_in_ms),
            now if state is RecoveryState.DONE else None,
            *(recovery.task_id, recovery.number, recovery.version, recovery.state),
        )
        if not won:
            return None
        self._verdict_event(now, recovery.task_id, recovery.number, kind, reason, by, evidence)
        if state is RecoveryState.DONE and kind is not VerdictKind.DISCARD:
            self._forget_message(recovery.task_id, recovery.number)
        return self._recovery_now(recovery)

    @_verb
    def complete(self, recovery: Recovery, *, by: str, data: dict[str, Any]) -> bool:
        with self.db.write():
            return self._complete(self._now(), recovery, by, data)

    @_verb
    def complete_all(self, recoveries: Sequence[Recovery], *, by: str) -> list[bool]:
        with self.db.write():
            now = self._now()
            return [self._complete(now, one, by, {"reason": one.reason}) for one in recoveries]

    def _complete(self, now: int, recovery: Recovery, by: str, data: dict[str, Any]) -> bool:
        won = self.db.run(
            "UPDATE crisper_recovery SET state = 'done', sent_at = ?, done_at = ?,"
            " version = version + 1"
            " WHERE task_id = ? AND number = ? AND version = ? AND state = 'decided'",
            *(now, now, recovery.task_id, recovery.number, recovery.version),
        )
        if won:
            self._event(
                now,
                "recovered",
                task_id=recovery.task_id,
                number=recovery.number,
                actor=by,
                data={"action": recovery.verdict, **data},
            )
        return bool(won)

    @_verb
    def give_up_case(self, recovery: Recovery, *, by: str, why: str, due_in_ms: int) -> bool:
        with self.db.write():
            now = self._now()
            again = (
                ""
                if recovery.state is not RecoveryState.DECIDED or recovery.verdict is VerdictKind.RECOVER
                else ", state = 'pending', verdict = NULL, decided_by = NULL, decided_at = NULL"
            )
            won = self.db.run(
                f"UPDATE crisper_recovery SET courier = NULL, due_at = ?, version = version + 1{again}"
                " WHERE task_id = ? AND number = ? AND version = ? AND state = ?",
                now + due_in_ms,
                *(recovery.task_id, recovery.number, recovery.version, recovery.state),
            )
            if won:
                self._event(
                    now,
                    "recovery_delayed",
                    task_id=recovery.task_id,
                    number=recovery.number,
                    actor=by,
                    data={"why": why},
                )
        return bool(won)

    # -- leadership -----------------------------------------------------------

    def term(self, name: str) -> Term | None:
        with self.db.write():
            rows = self.db.rows("SELECT holder, counter FROM crisper_leader WHERE name = ?", name)
        return Term(str(rows[0][0]), int(rows[0][1])) if rows else None

    @_verb
    def campaign(self, name: str, holder: str, seen: Term | None) -> Term | None:
        counter = seen.counter + 1 if seen else 1
        with self.db.write():
            if seen is None:
                won = self.db.run(
                    "INSERT INTO crisper_leader (name, holder, counter, since)"
                    f" VALUES (?, ?, 1, {self.db.now()}) ON CONFLICT DO NOTHING",
                    *(name, holder),
                )
            else:
                won = self.db.run(
                    "UPDATE crisper_leader SET counter = counter + 1, holder = ?,"
                    f" since = CASE WHEN holder = ? THEN since ELSE {self.db.now()} END"
                    " WHERE name = ? AND holder = ? AND counter = ?",
                    *(holder, holder, name, *seen),
                )
        return Term(holder, counter) if won else None

    # -- a person's verbs -----------------------------------------------------

    def recover(self, task_id: str, *, by: str, reason: str) -> Recovery | None:
        recovery = self._latest_recovery(key(task_id))
        if recovery is None or not recoverable(recovery.state, recovery.verdict):
            return None
        case = self.case(recovery.task_id, recovery.number)
        if case is None or case.message.body is None:
            return None
        return self.decide(recovery, VerdictKind.RECOVER, reason, {"was": recovery.state}, by=by)

    def discard(self, task_id: str, *, by: str, reason: str) -> bool:
        recovery = self._latest_recovery(key(task_id))
        if recovery is None or recovery.state not in WAITS_FOR_A_PERSON:
            return False
        evidence = {"was": recovery.state}
        return self.decide(recovery, VerdictKind.DISCARD, reason, evidence, by=by) is not None

    @_verb
    def note(
        self, kind: str, task_id: str | None, number: int | None, actor: str, data: dict[str, Any]
    ) -> None:
        with self.db.write():
            self._event(
                self._now(),
                storable(kind),
                task_id=None if task_id is None else key(task_id),
                number=number,
                actor=actor,
                data=data,
            )

    def _latest_recovery(self, task_id: str) -> Recovery | None:
        """The recovery of the task's latest attempt, if that one was lost."""
        with self.db.write():
            rows = self.db.rows(
                f"SELECT {_RECOVERY} FROM crisper_recovery r WHERE task_id = ? AND number ="
                " (SELECT max(number) FROM crisper_attempt a WHERE a.task_id = r.task_id)",
                task_id,
            )
        return _recovery(rows[0]) if rows else None

    # -- parts ----------------------------------------------------------------

    def _now(self) -> int:
        return int(self.db.rows(f"SELECT {self.db.now()}")[0][0])

    def _workers(self, where: str, *params: Any) -> list[Worker]:
        sql = f"SELECT {_WORKER} FROM crisper_incarnation WHERE {where} ORDER BY started_at, id"
        return [_worker(row) for row in self.db.rows(sql, *params)]

    @_verb
    def _end(self, state: str, evidence: dict[str, Any], by: str, id: str, where: str, *params: Any) -> bool:
        with self.db.write():
            now = self._now()
            won = self.db.run(
                "UPDATE crisper_incarnation SET state = ?, ended_at = ?, evidence = ?"
                f" WHERE id = ? AND {where}",
                *(state, now, as_json({**evidence, "by": by}), id, *params),
            )
            if won:
                kind = f"worker_{state}"
                self._event(now, kind, incarnation=id, actor=by, data=evidence)
        return bool(won)

    def _event(
        self,
        at: int,
        kind: str,
        *,
        actor: str,
        task_id: str | None = None,
        number: int | None = None,
        incarnation: str | None = None,
        seq: int | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        self.db.run(
            _EVENT, *(at, kind, task_id, number, incarnation, seq, storable(actor), as_json(data or {}))
        )

    def _verdict_event(
        self,
        now: int,
        task_id: str,
        number: int,
        verdict: VerdictKind,
        reason: str,
        by: str,
        evidence: dict[str, Any],
    ) -> None:
        data = {"verdict": verdict, "reason": reason, "evidence": evidence}
        self._event(now, "verdict", task_id=task_id, number=number, actor=by, data=data)

    def _forget_message(self, task_id: str, number: int) -> None:
        self.db.run(
            "UPDATE crisper_attempt SET body = NULL, envelope = NULL"
            " WHERE task_id = ? AND number = ? AND state = 'lost'",
            *(task_id, number),
        )

    def _recovery_now(self, recovery: Recovery) -> Recovery:
        rows = self.db.rows(
            f"SELECT {_RECOVERY} FROM crisper_recovery WHERE task_id = ? AND number = ?",
            *(recovery.task_id, recovery.number),
        )
        return _recovery(rows[0])


class _Known(NamedTuple):
    """An attempt that the gate finds on record."""

    attempt: Attempt
    recovery: Recovery | None
    kept: bool


class _Batch:
    """Records applied inside one transaction that holds the fence."""

    def __init__(self, store: SqlStore, fence: Fence, now: int, renewing: Collection[str]) -> None:
        self.store, self.db, self.fence, self.now = store, store.db, fence, now
        self.renewing = renewing
        self.answers: list[Answer] = []

    def apply(self, records: Sequence[Record]) -> None:
        self._claims([r for r in records if isinstance(r, Claim)])
        self._starts([r for r in records if isinstance(r, Start)])
        self._finishes([r for r in records if isinstance(r, Finish)])
        for record in records:
            if isinstance(record, ChildLost):
                self._child_lost(record)
            elif isinstance(record, Note):
                self._note(record)

    # -- claims ---------------------------------------------------------------

    def _claims(self, claims: Sequence[Claim]) -> None:
        """A task's first claim needs no look at the past: attempt 1 exists or it does not."""
        first = {claim.task_id: claim for claim in reversed(claims)}
        ordered = sorted(first.values(), key=lambda claim: claim.task_id)
        done = self.db.each(_INSERT_ATTEMPT, [self._row(claim, 1) for claim in ordered])
        granted = {c.seq for c, inserted in zip(ordered, done, strict=True) if inserted}
        refused = self._refused_before([c.seq for c in claims if c.seq not in granted])
        for claim in sorted(claims, key=lambda claim: claim.task_id):  # against deadlocks
            if claim.seq in granted:
                self._answer(claim.seq, "granted", 1)
            elif claim.seq in refused:
                self._answer(claim.seq, "refused", *refused[claim.seq])
            else:
                self._claim_known(claim)

    def _refused_before(self, seqs: Sequence[int]) -> dict[int, tuple[int, str]]:
        """Claims that this incarnation was refused already, with what they were answered."""
        if not seqs:
            return {}
        rows = self.db.rows(
            "SELECT seq, number, data FROM crisper_event"
            " WHERE incarnation = ? AND seq BETWEEN ? AND ? AND kind = 'refused'",
            *(self.fence.incarnation, min(seqs), max(seqs)),
        )
        return {seq: (number, json.loads(data)["reason"]) for seq, number, data in rows}

    def _row(self, claim: Claim, number: int) -> Row:
        return (
            *(claim.task_id, number, claim.message_id, claim.name, claim.queue),
            *(self.fence.incarnation, claim.seq, claim.acks_late, claim.dispatched),
            *(claim.redelivered, claim.retries, claim.tag, claim.on_lost, claim.loss_budget),
            *(self.now - claim.age_ms, claim.message.size, claim.message.why_not),
            *(claim.args_preview, claim.kwargs_preview),
            *(claim.message.envelope, claim.message.body),
        )

    def _claim_known(self, claim: Claim) -> None:
        """The task is on record: ask the gate, and again if its facts moved under the answer."""
        for _ in range(3):
            known = self._known(claim.task_id)
            mine = [k.attempt for k in known if self._is(k.attempt, claim.seq)]
            if mine:
                return self._answer(claim.seq, "granted", mine[0].number)
            same = [k for k in known if k.attempt.message_id == claim.message_id]
            latest = same[-1] if same else None
            decision = rule(
                self._latest(latest) if latest else None,
                redelivered=claim.redelivered,
                identified=claim.identified,
                newer=latest is None or (claim.seq > latest.attempt.seq and not claim.copy),
            )
            number = known[-1].attempt.number + 1 if known else 1
            if self._carry_out(claim, decision, latest, number):
                return None
        self._answer(claim.seq, "parked", 0, "its registry rows keep moving")

    def _known(self, task_id: str) -> list[_Known]:
        attempts = self.db.rows(
            f"SELECT {_ATTEMPT}, body IS NOT NULL FROM crisper_attempt WHERE task_id = ? ORDER BY number",
            task_id,
        )
        if not attempts:
            return []
        recoveries = {
            row[1]: _recovery(row)
            for row in self.db.rows(
                f"SELECT {_RECOVERY} FROM crisper_recovery WHERE task_id = ? ORDER BY number{self.db.lock}",
                task_id,
            )
        }
        return [_Known(_attempt(row), recoveries.get(row[1]), bool(row[-1])) for row in attempts]

    def _is(self, attempt: Attempt, seq: int) -> bool:
        return attempt.incarnation == self.fence.incarnation and attempt.seq == seq

    def _latest(self, known: _Known) -> Latest:
        attempt, recovery, kept = known
        return Latest(
            number=attempt.number,
            state=attempt.state,
            owner=self._owner(attempt.incarnation),
            dispatched=attempt.dispatched,
            kept=kept,
            on_lost=attempt.on_lost,
            ran=attempt.counted,
            losses=recovery.losses if recovery else 0,
            loss_budget=attempt.loss_budget,
            recovery=recovery.state if recovery else None,
            verdict=recovery.verdict if recovery else None,
        )

    def _owner(self, incarnation: str) -> Owner:
        if incarnation == self.fence.incarnation:
            return Owner.SELF
        return Owner.RENEWING if incarnation in self.renewing else Owner.UNJUDGED

    def _carry_out(
        self,
        claim: Claim,
        decision: Decision,
        latest: _Known | None,
        number: int,
    ) -> bool:
        """Write the gate's ruling; False if what it was decided on has moved."""
        match decision.ruling:
            case Ruling.GRANT:
                return self._grant(claim, latest, number)
            case Ruling.REGRANT if latest:
                return self._regrant(claim, latest.attempt)
            case Ruling.REFUSE if latest:
                return self._refuse(claim, decision.reason, latest.attempt)
        self._answer(claim.seq, decision.ruling.value, 0, decision.reason)
        return True

    def _grant(self, claim: Claim, latest: _Known | None, number: int) -> bool:
        attempt, recovery, _ = latest or (None, None, False)
        if recovery and recovery.state is not RecoveryState.DONE and not self._overtake(recovery):
            return False
        if not self.db.each(_INSERT_ATTEMPT, [self._row(claim, number)])[0]:
            return False
        if attempt is not None and attempt.state is State.LOST and claim.message.body is not None:
            self.store._forget_message(attempt.task_id, attempt.number)
        self._answer(claim.seq, "granted", number)
        return True

    def _overtake(self, recovery: Recovery) -> bool:
        """The message came by itself before its recovery was complete: that ends the recovery."""
        verdict = recovery.verdict or VerdictKind.REDELIVERED
        reason = recovery.reason or "the broker delivered its message again"
        won = self.db.run(
            "UPDATE crisper_recovery SET state = 'done', verdict = ?, reason = ?, done_at = ?,"
            " decided_by = COALESCE(decided_by, 'gate'), decided_at = COALESCE(decided_at, ?),"
            " version = version + 1 WHERE task_id = ? AND number = ? AND version = ? AND state = ?",
            *(verdict, reason, self.now, self.now),
            *(recovery.task_id, recovery.number, recovery.version, recovery.state),
        )
        if won and recovery.verdict is None:
            evidence = {"claimed_by": self.fence.incarnation, **recovery.evidence}
            self.store._verdict_event(
                self.now, recovery.task_id, recovery.number, verdict, reason, "gate", evidence
            )
        return bool(won)

    def _regrant(self, claim: Claim, attempt: Attempt) -> bool:
        won = self.db.run(
            "UPDATE crisper_attempt SET seq = ?, tag = ?, dispatched = ?"
            " WHERE task_id = ? AND number = ? AND incarnation = ? AND seq = ?"
            " AND state = 'claimed' AND NOT dispatched",
            *(claim.seq, claim.tag, claim.dispatched),
            *(attempt.task_id, attempt.number, self.fence.incarnation, attempt.seq),
        )
        if won:
            self._answer(claim.seq, "granted", attempt.number)
        return bool(won)

    def _refuse(self, claim: Claim, reason: str, attempt: Attempt) -> bool:
        """Acknowledging destroys the delivery, so what makes it safe is repeated here."""
        if attempt.state is State.RUNNING and not self.db.run(
            "UPDATE crisper_attempt SET copy_refused = TRUE WHERE task_id = ? AND number = ?"
            " AND incarnation = ? AND state = 'running' AND body IS NOT NULL AND EXISTS (SELECT 1 FROM"
            " crisper_incarnation i WHERE i.id = incarnation AND i.state = 'alive')",
            *(attempt.task_id, attempt.number, attempt.incarnation),
        ):
            return False
        self.store._event(
            self.now - claim.age_ms,
            "refused",
            task_id=claim.task_id,
            number=attempt.number,
            incarnation=self.fence.incarnation,
            seq=claim.seq,
            actor="gate",
            data={"reason": reason, "redelivered": claim.redelivered},
        )
        self._answer(claim.seq, "refused", attempt.number, reason)
        return True

    # -- starts, finishes, losses ---------------------------------------------

    def _starts(self, starts: Sequence[Start]) -> None:
        me = self.fence.incarnation
        running = [s for s in starts if s.pid]
        dispatched = [s for s in starts if not s.pid]
        self.db.each(_DISPATCH, [(s.task_id, me, s.claim_seq) for s in dispatched])
        self.db.each(
            _START,
            [(s.pid, s.pid_start, self.now - s.age_ms, s.task_id, me, s.claim_seq) for s in running],
        )

    def _finishes(self, finishes: Sequence[Finish]) -> None:
        me = self.fence.incarnation
        changed = self.db.each(
            _FINISH,
            [
                (
                    f.state,
                    f.reason,
                    f.runtime_ms,
                    self.now - f.age_ms,
                    f.seq,
                    self._began(f),
                    f.pid,
                    f.task_id,
                    me,
                    f.claim_seq,
                )
                for f in finishes
            ],
        )
        for finish, closed in zip(finishes, changed, strict=True):
            self._answer(finish.seq, "closed" if closed else self._not_open(finish))

    def _began(self, finish: Finish) -> int | None:
        if finish.runtime_ms is None:
            return None
        return self.now - finish.age_ms - finish.runtime_ms

    def _not_open(self, finish: Finish) -> str:
        if self.store._closed_by(self.fence, finish) == finish.seq:
            return "closed"
        self.store._late(self.now, self.fence, finish, "the attempt was closed before")
        return "late"

    def _child_lost(self, loss: ChildLost) -> None:
        lost = self.store._lose(
            self.now,
            self.fence.incarnation,
            [(loss.task_id, loss.claim_seq, loss.seq, loss.counted)],
            cause="child" if loss.counted else "shutdown",
            by="worker",
            evidence=loss.evidence,
        )[0]
        known = lost or self.store._closed_by(self.fence, loss) == loss.seq
        self._answer(loss.seq, "lost" if known else "late")

    def _note(self, note: Note) -> None:
        self.store._event(
            self.now - note.age_ms,
            note.kind,
            task_id=note.task_id,
            incarnation=self.fence.incarnation,
            seq=note.seq,
            actor="worker",
            data=note.data,
        )

    def answers_to(self, records: Sequence[Record]) -> list[Answer]:
        """The answers in the order of what they answer; segments write by kind."""
        places: dict[int, list[int]] = {}
        for place, record in enumerate(records):
            if not isinstance(record, Start):
                places.setdefault(record.seq, []).append(place)
        placed = [(places[answer.seq].pop(0), answer) for answer in self.answers]
        return [answer for _, answer in sorted(placed)]

    def _answer(self, seq: int, kind: str, number: int = 0, reason: str = "") -> None:
        self.answers.append(Answer(seq, kind, number, reason))


def _attempt(row: Row) -> Attempt:
    (
        task_id, number, message_id, name, queue, incarnation, seq, state, acks_late, dispatched,
        redelivered, retries, tag, copy_refused, pid, pid_start, on_lost, loss_budget, received_at,
        started_at, finished_at, runtime_ms, closed_seq, counted, reason, size, why_not_kept,
    ) = row[:27]  # fmt: skip
    return Attempt(
        task_id, number, message_id, name, queue, incarnation, seq, State(state), bool(acks_late),
        bool(dispatched), bool(redelivered), retries, tag, bool(copy_refused), pid, pid_start,
        OnLost(on_lost), loss_budget, received_at, started_at, finished_at, runtime_ms, closed_seq,
        bool(counted), reason, size, why_not_kept,
    )  # fmt: skip


def _recovery(row: Row) -> Recovery:
    (
        task_id, number, message_id, name, scope, state, version, cause, losses, verdict, reason,
        evidence, courier, decided_by, created_at, decided_at, due_at, sent_at, done_at,
    ) = row  # fmt: skip
    return Recovery(
        task_id, number, message_id, name, scope, RecoveryState(state), version, cause, losses,
        VerdictKind(verdict) if verdict else None, reason, json.loads(evidence), courier, decided_by,
        created_at, decided_at, due_at, sent_at, done_at,
    )  # fmt: skip


def _worker(row: Row) -> Worker:
    (
        id, hostname, scope, host, boot_id, pid_namespace, pid, pid_start, recorder_pid, recorder_start,
        lease_ms, heartbeat_ms, state, counter, generation, started_at, seen_at, ended_at, cleared,
        evidence, about, pulse,
    ) = row  # fmt: skip
    return Worker(
        id, hostname, scope, host, boot_id, pid_namespace, pid, pid_start, recorder_pid, recorder_start,
        lease_ms, heartbeat_ms, WorkerState(state), counter, generation, started_at, seen_at, ended_at,
        bool(cleared), json.loads(evidence), json.loads(about), json.loads(pulse),
    )  # fmt: skip
