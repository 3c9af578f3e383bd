"""The store's verbs in SQL that PostgreSQL and SQLite both speak, and MariaDB nearly.

The dialects differ in how a transaction begins, how rows are locked and what
their clock is called: `crisper.store.database` holds those. Statements are plain text and not
built by a library, because the recorder that runs them must stay small.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from crisper.core.gate import Past, is_left_over
from crisper.core.model import (
    Answer,
    Attempt,
    Case,
    ChildLost,
    Entry,
    Fence,
    Finish,
    Incarnation,
    Look,
    Order,
    Published,
    Pulse,
    Record,
    Recovery,
    Sighting,
    Worker,
)
from crisper.core.order import in_order, late_of, segments
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
from crisper.core.text import as_json, key, storable, storable_entry, storable_record
from crisper.core.verdict import Judgement, Verdict, stopped_by
from crisper.errors import Fenced, RegistryUnreachable
from crisper.store import cases, prune, publishes
from crisper.store.base import START, Closed, Mark, Old, Pruned, Stopped, Term
from crisper.store.batch import Batch
from crisper.store.database import Conflict, Database
from crisper.store.rows import (
    ATTEMPT,
    EVENT,
    IS_OPEN,
    RECOVERY,
    WORKER,
    among,
    as_attempt,
    as_recovery,
    as_worker,
)

#: How often a transaction is tried that the database refuses as a deadlock's victim.
TRIES = 5

P = ParamSpec("P")
T = TypeVar("T")

#: Attempts of one incarnation, by their tasks, which are indexed, and the numbers of their claims.
_THESE = "task_id {tasks} AND incarnation = ? AND seq {seqs}"

_LOSE = f"""
UPDATE crisper_attempt
   SET state = 'lost', finished_at = ?, closed_seq = ?, counted = ?, reason = ?
 WHERE {_THESE} AND {IS_OPEN}"""

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
 WHERE a.{_THESE} AND a.state = 'lost'
ON CONFLICT DO NOTHING"""

#: The losses of attempts that this very transaction closed.
_LOST_EVENTS = f"""
INSERT INTO crisper_event (at, kind, task_id, number, incarnation, seq, actor, data)
SELECT ?, 'lost', task_id, number, incarnation, NULL, ?, ? FROM crisper_attempt
 WHERE {_THESE} AND state = 'lost'"""


_ORDER = """
INSERT INTO crisper_order (task_id, number, incarnation, kind, ordered_by, reason, ordered_at)
VALUES (?, ?, ?, 'stop', ?, ?, ?) ON CONFLICT DO NOTHING"""

CLOSE_ORDER = "UPDATE crisper_order SET done_at = ? WHERE task_id = ? AND number = ? AND done_at IS NULL"

_TELL = "UPDATE crisper_running SET at = ?, told = ? WHERE incarnation = ?"
_TELL_FIRST = "INSERT INTO crisper_running (at, told, incarnation) VALUES (?, ?, ?)"

#: An attempt that was stopped and not lost has no recovery until a person recovers it.
_OPEN_STOPPED = """
INSERT INTO crisper_recovery
       (task_id, number, message_id, name, scope, state, version, cause, losses, verdict, reason, evidence,
        created_at, done_at)
SELECT a.task_id, a.number, a.message_id, a.name, i.scope, 'done', 1, 'stop', 0, 'revoked', a.reason, '{}',
       ?, ?
  FROM crisper_attempt a JOIN crisper_incarnation i ON i.id = a.incarnation
 WHERE a.task_id = ? AND a.state = 'revoked' AND a.body IS NOT NULL
   AND a.number = (SELECT max(l.number) FROM crisper_attempt l WHERE l.task_id = a.task_id)
ON CONFLICT DO NOTHING"""


def _moved(saw: Saw | None, recovery: Recovery | None, attempt: Attempt | None = None) -> bool:
    """Whether a task is no more as somebody saw it; of an attempt that was lost its recovery says it all."""
    if saw is None:
        return False
    number, state = (attempt.number, attempt.state) if attempt else (0, State.LOST)
    if recovery is None:
        return not saw.holds(number, state, None, None)
    return not saw.holds(recovery.number, state, recovery.state, recovery.verdict)


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

    def look_around(self) -> None:
        self.db.look_around()

    def identity(self) -> str:
        with self.db.write():
            rows = self.db.rows("SELECT r.value FROM crisper_registry r WHERE r.key = 'id'")
        return str(rows[0][0])

    # -- incarnations ---------------------------------------------------------

    @_verb
    def enroll(self, incarnation: Incarnation) -> Fence:
        one = incarnation
        names = [storable(name) for name in (one.hostname, one.scope, one.host, one.boot_id)]
        with self.db.write():
            now = self.now()
            self.db.run(
                f"INSERT INTO crisper_incarnation ({WORKER}) VALUES"
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
        with self.db.write() if pulse.running else self.db.single():
            renewed = self.db.run(
                "UPDATE crisper_incarnation SET counter = counter + 1, recorder_pid = ?,"
                f" recorder_start = ?, pulse = ?, seen_at = {self.db.now()}"
                " WHERE id = ? AND generation = ? AND state = 'alive'",
                pulse.recorder_pid,
                pulse.recorder_start,
                as_json({"loop_age_ms": pulse.loop_age_ms, **pulse.detail}),
                *fence,
            )
            if renewed and pulse.running:
                told = self.now(), as_json(pulse.running), fence.incarnation
                if not self.db.run(_TELL, *told):
                    self.db.run(_TELL_FIRST, *told)
        return bool(renewed)

    def alive(self) -> list[Worker]:
        with self.db.single():
            return self._workers("state = 'alive' AND NOT cleared")

    def uncleared(self) -> list[Worker]:
        with self.db.single():
            return self._workers("state IN ('lost', 'gone') AND NOT cleared")

    def running_processes(self, id: str) -> list[tuple[int, int]]:
        with self.db.write():
            rows = self.db.rows(
                "SELECT DISTINCT pid, pid_start FROM crisper_attempt WHERE incarnation = ?"
                f" AND {IS_OPEN} AND pid > 0 AND pid_start IS NOT NULL",
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

    @_verb
    def testify(self, fence: Fence, seen: Sequence[Sighting]) -> bool:
        with self.db.write():
            now = self._hold(fence)
            if now is None:
                return False
            for one in seen:
                self._event(
                    now,
                    storable(one.kind),
                    task_id=None if one.task_id is None else key(one.task_id),
                    number=one.number,
                    incarnation=fence.incarnation,
                    actor="recorder",
                    data=one.data,
                )
            return True

    # -- the way of an attempt ------------------------------------------------

    @_verb
    def record(
        self, fence: Fence, records: Sequence[Record], *, renewing: Collection[str] | None = None
    ) -> list[Answer]:
        records = [storable_record(record, self.db.largest) for record in records]
        written = self.db.at_once(fence, records)
        left, answers = written.left(records), written.answers_to(records)
        if records and not left:
            return answers
        with self.db.write():
            now = self._hold(fence)
            if now is None:
                self._keep_late(fence, left)
            else:
                batch = Batch(self, fence, now, renewing)
                for segment in segments(left):
                    batch.apply(segment)
                return in_order([*answers, *batch.answers], records)
        raise Fenced(f"incarnation {fence.incarnation} or its recorder's generation is over")

    def left_over(self, entries: Sequence[Entry]) -> list[bool]:
        with self.db.write():
            return [is_left_over(one, self._past(one.task_id)) for one in map(storable_entry, entries)]

    def _past(self, task_id: str) -> Iterator[Past]:
        rows = self.db.rows(
            "SELECT a.number, a.message_id, a.tag, a.state, r.state, r.verdict, i.state"
            " FROM crisper_attempt a"
            " LEFT JOIN crisper_recovery r ON r.task_id = a.task_id AND r.number = a.number"
            " LEFT JOIN crisper_incarnation i ON i.id = a.incarnation"
            " WHERE a.task_id = ?",
            task_id,
        )
        for number, message_id, tag, state, recovery, verdict, worker in rows:
            yield Past(
                number, message_id, tag, State(state),
                RecoveryState(recovery) if recovery else None,
                VerdictKind(verdict) if verdict else None,
                worker == WorkerState.LOST,
            )  # fmt: skip

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
        now = self.now()
        for record in late_of(records):
            if self._closed_by(fence, record) != record.seq:
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

    @_verb
    def orders(self, incarnation: str) -> list[Order]:
        with self.db.write():
            found = self.db.rows(
                "SELECT a.state, a.seq, o.task_id, o.number, o.ordered_by, o.reason"
                " FROM crisper_order o"
                " JOIN crisper_attempt a ON a.task_id = o.task_id AND a.number = o.number"
                " WHERE o.incarnation = ? AND o.done_at IS NULL ORDER BY a.seq",
                incarnation,
            )
            over = [row for row in found if State(row[0]) not in OPEN | MAY_FOLLOW]
            if over:
                now = self.now()
                self.db.each(CLOSE_ORDER, [(now, task_id, number) for _, _, task_id, number, _, _ in over])
        return [
            Order(seq, number, stopped_by(by, reason))
            for state, seq, _, number, by, reason in found
            if State(state) in OPEN
        ]

    # -- losses and recoveries ------------------------------------------------

    @_verb
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

    @_verb
    def take_cases(self, courier: str, scope: str, *, limit: int, again: bool = False) -> list[Case]:
        with self.db.write():
            return cases.take(self, courier, scope, limit, again)

    def case(self, task_id: str, number: int) -> Case | None:
        with self.db.write():
            return cases.case(self, key(task_id), number)

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
        judgement = Judgement(recovery, Verdict(verdict, reason, evidence), due_in_ms)
        with self.db.write():
            return cases.decide(self, [judgement], by=by)[0]

    @_verb
    def decide_all(self, judgements: Sequence[Judgement], *, by: str) -> list[Recovery | None]:
        with self.db.write():
            return cases.decide(self, judgements, by=by)

    @_verb
    def complete(self, recovery: Recovery, *, by: str, data: dict[str, Any]) -> bool:
        with self.db.write():
            return cases.complete(self, [(recovery, data)], by=by)[0]

    @_verb
    def complete_all(self, recoveries: Sequence[Recovery], *, by: str) -> list[bool]:
        with self.db.write():
            return cases.complete(self, [(one, {"reason": one.reason}) for one in recoveries], by=by)

    @_verb
    def give_up_case(self, recovery: Recovery, *, by: str, why: str, due_in_ms: int) -> bool:
        with self.db.write():
            return cases.give_up(self, recovery, by, why, due_in_ms)

    # -- publishing on record -------------------------------------------------

    @_verb
    def publish(self, messages: Sequence[Published], *, due_in_ms: int) -> None:
        with self.db.write():
            publishes.insert(self, messages, due_in_ms)

    @_verb
    def retract(self, message_id: str) -> None:
        with self.db.write():
            self.db.run("DELETE FROM crisper_publish WHERE message_id = ?", key(message_id))

    @_verb
    def take_unclaimed(self, scope: str, *, limit: int) -> list[Published]:
        with self.db.write():
            return publishes.take(self, scope, limit)

    @_verb
    def look_again(self, looks: Sequence[Look]) -> None:
        with self.db.write():
            publishes.look_again(self, looks)

    @_verb
    def declare_vanished(
        self, messages: Sequence[tuple[str, int]], *, by: str, evidence: dict[str, Any], due_in_ms: int
    ) -> list[str]:
        with self.db.write():
            return publishes.declare(self, messages, by, evidence, due_in_ms)

    # -- leadership -----------------------------------------------------------

    def term(self, name: str) -> Term | None:
        with self.db.single():
            rows = self.db.rows("SELECT holder, counter FROM crisper_leader WHERE name = ?", name)
        return Term(str(rows[0][0]), int(rows[0][1])) if rows else None

    @_verb
    def campaign(self, name: str, holder: str, seen: Term | None) -> Term | None:
        counter = seen.counter + 1 if seen else 1
        with self.db.single():
            if seen is None:
                won = self.db.run(
                    "INSERT INTO crisper_leader (name, holder, counter, since)"
                    f" VALUES (?, ?, 1, {self.db.now()}) ON CONFLICT DO NOTHING",
                    *(name, holder),
                )
            else:
                won = self.db.run(
                    # MariaDB assigns from left to right: what looks at the old holder comes first.
                    "UPDATE crisper_leader SET counter = counter + 1,"
                    f" since = CASE WHEN holder = ? THEN since ELSE {self.db.now()} END, holder = ?"
                    " WHERE name = ? AND holder = ? AND counter = ?",
                    *(holder, holder, name, *seen),
                )
        return Term(holder, counter) if won else None

    # -- its clock ------------------------------------------------------------

    def clock(self) -> tuple[int, int]:
        with self.db.write():
            now = self.now()
            rows = self.db.rows("SELECT counter FROM crisper_leader WHERE name = 'clock'")
        return now, int(rows[0][0]) if rows else 0

    @_verb
    def mend_clock(self, mended: int, step_ms: int) -> bool:
        with self.db.write():
            if mended:
                won = self.db.run(
                    "UPDATE crisper_leader SET counter = counter + 1 WHERE name = 'clock' AND counter = ?",
                    mended,
                )
            else:
                won = self.db.run(
                    "INSERT INTO crisper_leader (name, holder, counter, since)"
                    f" VALUES ('clock', '', 1, {self.db.now()}) ON CONFLICT DO NOTHING"
                )
            if won:
                self.db.run(
                    "UPDATE crisper_recovery SET created_at = created_at + ?, due_at = due_at + ?"
                    " WHERE state IN ('pending', 'decided', 'waiting')",
                    *(step_ms, step_ms),
                )
                self.db.run("UPDATE crisper_publish SET due_at = due_at + ?", step_ms)
                self._event(self.now(), "clock_mended", actor="sweeper", data={"step_ms": step_ms})
        return bool(won)

    # -- a person's verbs -----------------------------------------------------

    def recover(self, task_id: str, *, by: str, reason: str, saw: Saw | None = None) -> Recovery | None:
        self._open_stopped(key(task_id))
        recovery = self._latest_recovery(key(task_id))
        if recovery is None or not recoverable(recovery.state, recovery.verdict) or _moved(saw, recovery):
            return None
        case = self.case(recovery.task_id, recovery.number)
        if case is None or case.message.body is None:
            return None
        return self.decide(recovery, VerdictKind.RECOVER, reason, {"was": recovery.state}, by=by)

    def discard(self, task_id: str, *, by: str, reason: str, saw: Saw | None = None) -> bool:
        recovery = self._latest_recovery(key(task_id))
        if recovery is None or recovery.state not in WAITS_FOR_A_PERSON or _moved(saw, recovery):
            return False
        evidence = {"was": recovery.state}
        return self.decide(recovery, VerdictKind.DISCARD, reason, evidence, by=by) is not None

    @_verb
    def _open_stopped(self, task_id: str) -> None:
        with self.db.write():
            now = self.now()
            self.db.run(_OPEN_STOPPED, now, now, task_id)

    @_verb
    def stop(self, task_id: str, *, by: str, reason: str, saw: Saw | None = None) -> Stopped | None:
        task_id, by, reason = key(task_id), storable(by), storable(reason)
        with self.db.write():
            for _ in range(TRIES):
                attempt, recovery = self._latest_held(task_id)
                # Who claimed the next attempt before we held this one is seen only now.
                newest = self.db.rows("SELECT max(number) FROM crisper_attempt WHERE task_id = ?", task_id)
                if attempt is None or newest[0][0] == attempt.number:
                    break
            if attempt is None or _moved(saw, recovery, attempt):
                return None
            return self._stop(self.now(), attempt, recovery, by, reason)

    def _latest_held(self, task_id: str) -> tuple[Attempt | None, Recovery | None]:
        """The task's latest attempt and its recovery, as they stay until commit."""
        attempts = self.db.rows(
            f"SELECT {ATTEMPT} FROM crisper_attempt WHERE task_id = ?"
            f" ORDER BY number DESC LIMIT 1{self.db.lock}",
            task_id,
        )
        if not attempts:
            return None, None
        attempt = as_attempt(attempts[0])
        recoveries = self.db.rows(
            f"SELECT {RECOVERY} FROM crisper_recovery WHERE task_id = ? AND number = ?{self.db.lock}",
            *(task_id, attempt.number),
        )
        return attempt, as_recovery(recoveries[0]) if recoveries else None

    def _stop(
        self, now: int, attempt: Attempt, recovery: Recovery | None, by: str, reason: str
    ) -> Stopped | None:
        place = attempt.task_id, attempt.number
        if recovery is not None:
            if not stoppable(recovery.state, recovery.verdict):
                return None
            verdict = Verdict(VerdictKind.REVOKED, reason, {"was": recovery.state})
            [decided] = cases.decide(self, [Judgement(recovery, verdict)], by=by)
            return None if decided is None else Stopped(attempt.number, attempt.state, decided)
        if attempt.state not in OPEN | MAY_FOLLOW:
            return None
        if self.db.run(_ORDER, *place, attempt.incarnation, by, reason, now):
            data = {"reason": reason, "was": attempt.state}
            self._event(now, "stop", task_id=place[0], number=place[1], actor=by, data=data)
        return Stopped(attempt.number, attempt.state, None)

    @_verb
    def note(
        self, kind: str, task_id: str | None, number: int | None, actor: str, data: dict[str, Any]
    ) -> None:
        with self.db.write():
            self._event(
                self.now(),
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
                f"SELECT {RECOVERY} FROM crisper_recovery r WHERE task_id = ? AND number ="
                " (SELECT max(number) FROM crisper_attempt a WHERE a.task_id = r.task_id)",
                task_id,
            )
        return as_recovery(rows[0]) if rows else None

    # -- retention ------------------------------------------------------------

    @_verb
    def prune_tasks(self, old: Old, after: Mark = START, *, limit: int, only_count: bool = False) -> Pruned:
        with self.db.write():
            return prune.tasks(self, old, after, limit, only_count)

    @_verb
    def prune_rest(self, old: Old, *, limit: int) -> int:
        with self.db.write():
            return prune.rest(self, old, limit)

    # -- parts ----------------------------------------------------------------

    def now(self) -> int:
        return int(self.db.rows(f"SELECT {self.db.now()}")[0][0])

    def _workers(self, where: str, *params: Any) -> list[Worker]:
        sql = f"SELECT {WORKER} FROM crisper_incarnation WHERE {where} ORDER BY started_at, id"
        return [as_worker(row) for row in self.db.rows(sql, *params)]

    @_verb
    def _end(self, state: str, evidence: dict[str, Any], by: str, id: str, where: str, *params: Any) -> bool:
        with self.db.write():
            now = self.now()
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
            EVENT, *(at, kind, task_id, number, incarnation, seq, storable(actor), as_json(data or {}))
        )

    def _recovery_of(self, task_id: str, number: int) -> Recovery:
        rows = self.db.rows(
            f"SELECT {RECOVERY} FROM crisper_recovery WHERE task_id = ? AND number = ?",
            *(task_id, number),
        )
        return as_recovery(rows[0])
