"""The registry in plain Python: for tests and for simulated time. Nothing outlives the process.

Any number of threads may share one; a lock makes each verb one transaction.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from crisper.core.gate import (
    Decision,
    Latest,
    Owner,
    Past,
    Ruling,
    goes_on,
    is_left_over,
    rule,
    ruled_later,
)
from crisper.core.model import (
    Answer,
    Attempt,
    Case,
    Checkpoint,
    ChildLost,
    Claim,
    Entry,
    Fence,
    Finish,
    Incarnation,
    Look,
    Message,
    Note,
    Order,
    Published,
    Pulse,
    Record,
    Recovery,
    Sighting,
    Start,
    Worker,
)
from crisper.core.order import late_of
from crisper.core.states import (
    HAVE_RECOVERIES,
    MAY_FOLLOW,
    OPEN,
    STANDS,
    UNDER_WAY,
    VERDICT_MOVES,
    WAITS_FOR_A_PERSON,
    OnLost,
    RecoveryState,
    Saw,
    State,
    VerdictKind,
    WorkerState,
    may_decide,
    recoverable,
    stoppable,
)
from crisper.core.text import as_json, key, storable, storable_entry, storable_record
from crisper.core.verdict import DEAD_LETTERED, Judgement, is_same_verdict, stopped_by, superseded_or_finished
from crisper.errors import Fenced
from crisper.store.base import START, Closed, Mark, Old, Pruned, Stopped, Term
from crisper.store.batch import DOUBTED, has_journal

#: As on a server: how long a courier has a case, or a message to look for, to itself.
CASE_MS = LOOK_MS = 60_000


class Event(NamedTuple):
    at: int
    kind: str
    task_id: str | None
    number: int | None
    incarnation: str | None
    seq: int | None
    actor: str
    data: dict[str, Any]


@dataclass
class _Stop:
    """An order to stop; `incarnation` and its place move when it follows its task."""

    incarnation: str
    by: str
    reason: str
    done: bool = False


def _wall_clock() -> int:
    return int(time.time() * 1000)


class MemoryStore:
    """`crisper.store.base.Store` over dictionaries. `clock` gives milliseconds."""

    def __init__(self, clock: Callable[[], int] = _wall_clock) -> None:
        self._clock, self._lock = clock, threading.RLock()
        self._id = uuid.uuid4().hex
        self._workers: dict[str, Worker] = {}
        self._running: dict[str, dict[str, Any]] = {}  # what heartbeats told of running attempts, by seq
        self._attempts: dict[str, list[Attempt]] = {}
        self._messages: dict[tuple[str, int], Message] = {}
        self._recoveries: dict[tuple[str, int], Recovery] = {}
        self._held: dict[str, dict[int, tuple[str, int]]] = defaultdict(dict)  # open, by handle
        self._orders: dict[tuple[str, int], _Stop] = {}
        self._checkpoints: dict[str, tuple[int, int, str, str]] = {}  # number, when, data, preview
        self._terms: dict[str, Term] = {}
        self._mended = 0  # steps of the clock
        self._published: dict[str, tuple[Published, int]] = {}  # until claimed, with when it is due
        self._events: list[Event] = []
        self._once: set[tuple[str, int]] = set()

    def identity(self) -> str:
        return self._id

    def look_around(self) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...

    # -- what tests and simulations look at ------------------------------------

    def attempts(self, task_id: str) -> list[Attempt]:
        with self._lock:
            return list(self._attempts.get(key(task_id), ()))

    def recoveries(self, task_id: str) -> list[Recovery]:
        with self._lock:
            return [r for (task, _), r in sorted(self._recoveries.items()) if task == key(task_id)]

    def events(self) -> list[Event]:
        with self._lock:
            return list(self._events)

    def worker(self, id: str) -> Worker | None:
        with self._lock:
            return self._workers.get(id)

    def checkpoint(self, task_id: str) -> tuple[int, int, str, str] | None:
        """Number, when, data and preview of the task's last one."""
        with self._lock:
            return self._checkpoints.get(key(task_id))

    def running(self, id: str) -> dict[str, Any]:
        with self._lock:
            return self._running.get(id, {})

    # -- incarnations ---------------------------------------------------------

    def enroll(self, incarnation: Incarnation) -> Fence:
        one, now = incarnation, self._clock()
        with self._lock:
            if one.id not in self._workers:
                self._workers[one.id] = Worker(
                    one.id, storable(one.hostname), storable(one.scope), storable(one.host),
                    storable(one.boot_id), one.pid_namespace, one.pid, one.pid_start, 0, 0, one.lease_ms,
                    one.heartbeat_ms, WorkerState.ALIVE, 0, 1, now, now, None, False, {},
                    _plain(one.about), {},
                )  # fmt: skip
            self._event(now, "worker_enrolled", actor=storable(one.hostname), incarnation=one.id, seq=0)
        return Fence(one.id, 1)

    def replace_recorder(self, fence: Fence) -> Fence | None:
        with self._lock:
            if not self._holds(fence):
                return None
            self._change(fence.incarnation, generation=fence.generation + 1)
            return Fence(fence.incarnation, fence.generation + 1)

    def renew(self, fence: Fence, pulse: Pulse) -> bool:
        with self._lock:
            if not self._holds(fence):
                return False
            if pulse.running:
                self._running[fence.incarnation] = _plain(pulse.running)
            self._change(
                fence.incarnation,
                counter=self._workers[fence.incarnation].counter + 1,
                recorder_pid=pulse.recorder_pid,
                recorder_start=pulse.recorder_start,
                pulse=_plain({"loop_age_ms": pulse.loop_age_ms, **pulse.detail}),
                seen_at=self._clock(),
            )
            return True

    def alive(self) -> list[Worker]:
        with self._lock:
            return self._sorted(w for w in self._workers.values() if w.state is WorkerState.ALIVE)

    def uncleared(self) -> list[Worker]:
        with self._lock:
            return self._sorted(
                w for w in self._workers.values() if w.state is not WorkerState.ALIVE and not w.cleared
            )

    def running_processes(self, id: str) -> list[tuple[int, int]]:
        with self._lock:
            attempts = [self._at(*place) for place in self._held[id].values()]
        return list({(a.pid, a.pid_start) for a in attempts if a.pid and a.pid_start is not None})

    def declare_lost(self, id: str, counter: int, *, by: str, evidence: dict[str, Any]) -> bool:
        with self._lock:
            worker = self._workers.get(id)
            if worker is None or worker.state is not WorkerState.ALIVE or worker.counter != counter:
                return False
            return self._end(id, WorkerState.LOST, by, evidence)

    def declare_own_loss(self, fence: Fence, *, evidence: dict[str, Any]) -> bool:
        with self._lock:
            held = self._holds(fence)
            return held and self._end(fence.incarnation, WorkerState.LOST, "witness", evidence)

    def say_goodbye(self, fence: Fence, *, reason: str) -> bool:
        with self._lock:
            held = self._holds(fence)
            return held and self._end(fence.incarnation, WorkerState.GONE, "worker", {"reason": reason})

    def testify(self, fence: Fence, seen: Sequence[Sighting]) -> bool:
        with self._lock:
            if not self._holds(fence):
                return False
            for one in seen:
                self._event(
                    self._clock(),
                    storable(one.kind),
                    task_id=None if one.task_id is None else key(one.task_id),
                    number=one.number,
                    incarnation=fence.incarnation,
                    actor="recorder",
                    data=one.data,
                )
            return True

    def _end(self, id: str, state: WorkerState, by: str, evidence: dict[str, Any]) -> bool:
        now = self._clock()
        self._change(id, state=state, ended_at=now, evidence=_plain({**evidence, "by": by}))
        self._event(now, f"worker_{state}", actor=by, incarnation=id, data=evidence)
        return True

    def _holds(self, fence: Fence) -> bool:
        worker = self._workers.get(fence.incarnation)
        return (
            worker is not None and worker.state is WorkerState.ALIVE and worker.generation == fence.generation
        )

    def _change(self, id: str, **changes: Any) -> None:
        self._workers[id] = replace(self._workers[id], **changes)

    def _sorted(self, workers: Iterator[Worker]) -> list[Worker]:
        return sorted(workers, key=lambda w: (w.started_at, w.id))

    # -- the way of an attempt ------------------------------------------------

    def record(
        self, fence: Fence, records: Sequence[Record], *, renewing: Collection[str] | None = None
    ) -> list[Answer]:
        records = [storable_record(record) for record in records]
        with self._lock:
            if not self._holds(fence):
                self._keep_late(fence, records)
                raise Fenced(f"incarnation {fence.incarnation} or its recorder's generation is over")
            answers = [self._apply(fence.incarnation, r, renewing) for r in records]
        return [answer for answer in answers if answer]

    def _keep_late(self, fence: Fence, records: Sequence[Record]) -> None:
        worker = self._workers.get(fence.incarnation)
        if worker is not None and worker.state is WorkerState.ALIVE:
            return
        for record in late_of(records):
            if self._closed_by(fence.incarnation, record) != record.seq:
                self._late(fence.incarnation, record, "its incarnation was fenced")

    def _apply(self, me: str, record: Record, renewing: Collection[str] | None) -> Answer | None:
        match record:
            case Claim():
                return self._claim(me, record, renewing)
            case Start():
                self._start(me, record)
            case Checkpoint():
                return self._save(me, record)
            case Finish():
                return self._finish(me, record)
            case ChildLost():
                return self._child_lost(me, record)
            case Note():
                at = self._clock() - record.age_ms
                self._event(
                    at, record.kind, actor="worker", task_id=record.task_id, incarnation=me,
                    seq=record.seq, data=record.data,
                )  # fmt: skip
        return None

    # -- claims ---------------------------------------------------------------

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
        decision = rule(
            self._latest(latest, me, renewing or (), claim.age_ms) if latest else None,
            redelivered=claim.redelivered,
            identified=claim.identified,
            newer=latest is None or (claim.seq > latest.seq and not claim.copy),
        )
        return self._carry_out(me, claim, ruled_later(decision) if claim.provisional else decision, latest)

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
            self._messages.pop((latest.task_id, latest.number), None)
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

    # -- starts, finishes, losses ---------------------------------------------

    def _open(self, me: str, record: Start | Checkpoint | Finish | ChildLost) -> Attempt | None:
        place = self._held[me].get(record.claim_seq)
        return self._at(*place) if place and place[0] == record.task_id else None

    def _start(self, me: str, start: Start) -> None:
        attempt = self._open(me, start)
        if attempt is None or attempt.state is not State.CLAIMED:
            return
        if start.pid:
            self._set(
                attempt, state=State.RUNNING, dispatched=True, pid=start.pid, pid_start=start.pid_start,
                started_at=self._clock() - start.age_ms,
            )  # fmt: skip
        else:
            self._set(attempt, dispatched=True)

    def _save(self, me: str, made: Checkpoint) -> Answer:
        attempt = self._open(me, made)
        if attempt is None:
            return Answer(made.seq, "late")
        at = self._clock() - made.age_ms
        self._checkpoints[made.task_id] = attempt.number, at, made.data, made.preview
        return Answer(made.seq, "kept")

    def _last_checkpoint(self, task_id: str, number: int) -> str:
        of, _, data, _ = self._checkpoints.get(task_id, (0, 0, "", ""))
        over = any(a.state is State.SUCCEEDED and a.number >= of for a in self._attempts[task_id])
        return "" if number == 1 or over else data

    def _finish(self, me: str, finish: Finish) -> Answer:
        attempt = self._open(me, finish)
        if attempt is None:
            closed_by = self._closed_by(me, finish)
            if closed_by == finish.seq:
                return Answer(finish.seq, "closed")
            if closed_by is None and finish.state is State.RELEASED:
                return Answer(finish.seq, "late")
            self._late(me, finish, "the attempt was closed before")
            return Answer(finish.seq, "late")
        if finish.state is State.RELEASED and attempt.copy_refused:
            # What was refused as its copy may have been its only delivery: a courier sends it again.
            how = {"how": finish.reason or "given back"}
            self._lose(attempt, finish.seq, False, "shutdown", "worker", how)
            return Answer(finish.seq, "closed")
        at = self._clock() - finish.age_ms
        began = None if finish.runtime_ms is None else at - finish.runtime_ms
        self._set(
            attempt, state=finish.state, reason=finish.reason, runtime_ms=finish.runtime_ms,
            finished_at=at, closed_seq=finish.seq, pid=finish.pid if attempt.pid is None else attempt.pid,
            started_at=began if attempt.started_at is None else attempt.started_at,
        )  # fmt: skip
        del self._held[me][finish.claim_seq]
        place = attempt.task_id, attempt.number
        if finish.state is not State.REVOKED or place not in self._orders:
            self._messages.pop(place, None)
        return Answer(finish.seq, "closed")

    def _child_lost(self, me: str, loss: ChildLost) -> Answer:
        attempt = self._open(me, loss)
        if attempt is not None:
            cause = "child" if loss.counted else "shutdown"
            self._lose(attempt, loss.seq, loss.counted, cause, "worker", loss.evidence)
        known = attempt is not None or self._closed_by(me, loss) == loss.seq
        return Answer(loss.seq, "lost" if known else "late")

    def _closed_by(self, me: str, record: Finish | ChildLost) -> int | None:
        for attempt in self._attempts.get(record.task_id, ()):
            if (attempt.incarnation, attempt.seq) == (me, record.claim_seq):
                return attempt.closed_seq
        return None

    def _late(self, me: str, finish: Finish, why: str) -> None:
        self._event(
            self._clock() - finish.age_ms, "late_finish", actor="worker", task_id=finish.task_id,
            incarnation=me, seq=finish.seq,
            data={"state": finish.state, "reason": finish.reason, "why": why,
                  "runtime_ms": finish.runtime_ms},
        )  # fmt: skip

    def orders(self, incarnation: str) -> list[Order]:
        with self._lock:
            found = [
                (self._at(*place), order)
                for place, order in self._orders.items()
                if order.incarnation == incarnation and not order.done
            ]
            found.sort(key=lambda pair: pair[0].seq)
            for attempt, order in found:
                order.done = attempt.state not in OPEN | MAY_FOLLOW
            return [
                Order(attempt.seq, attempt.number, stopped_by(order.by, order.reason))
                for attempt, order in found
                if attempt.state in OPEN
            ]

    # -- losses and recoveries ------------------------------------------------

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
            cause, losses, None, None, _plain(evidence), None, None, now, None, None, None, None,
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
            found = [r for r in self._recoveries.values() if r.scope == scope and self._free(r, now, mine)]
            found.sort(key=lambda r: (r.created_at, r.task_id, r.number))
            taken = [self._move(r, courier=courier, due_at=now + CASE_MS) for r in found[:limit]]
            return [case for r in taken if (case := self.case(r.task_id, r.number))]

    def _free(self, recovery: Recovery, now: int, mine: str) -> bool:
        if recovery.state not in UNDER_WAY:
            return False
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
                recovery, state=state, verdict=verdict, reason=reason, evidence=_plain(evidence),
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
        moved = replace(self._recoveries[place], version=recovery.version + 1, **changes)
        self._recoveries[place] = moved
        return moved

    # -- leadership -----------------------------------------------------------

    def term(self, name: str) -> Term | None:
        with self._lock:
            return self._terms.get(name)

    def campaign(self, name: str, holder: str, seen: Term | None) -> Term | None:
        with self._lock:
            if self._terms.get(name) != seen:
                return None
            self._terms[name] = Term(holder, seen.counter + 1 if seen else 1)
            return self._terms[name]

    # -- its clock ------------------------------------------------------------

    def clock(self) -> tuple[int, int]:
        with self._lock:
            return self._clock(), self._mended

    def mend_clock(self, mended: int, step_ms: int) -> bool:
        with self._lock:
            if mended != self._mended:
                return False
            self._mended += 1
            for place, one in self._recoveries.items():
                if one.state in UNDER_WAY:
                    due_at = None if one.due_at is None else one.due_at + step_ms
                    created_at = one.created_at + step_ms
                    self._recoveries[place] = replace(one, created_at=created_at, due_at=due_at)
            self._published = {id: (one, due + step_ms) for id, (one, due) in self._published.items()}
            self._event(self._clock(), "clock_mended", actor="sweeper", data={"step_ms": step_ms})
            return True

    # -- publishing on record -------------------------------------------------

    def publish(self, messages: Sequence[Published], *, due_in_ms: int) -> None:
        with self._lock:
            for one in messages:
                at = self._clock() - one.age_ms
                stored = one._replace(
                    message_id=key(one.message_id), task_id=key(one.task_id), name=storable(one.name),
                    queue=storable(one.queue), age_ms=at, delay_ms=0, missing=0, vanished=0,
                )  # fmt: skip
                self._published.setdefault(stored.message_id, (stored, at + one.delay_ms + due_in_ms))

    def retract(self, message_id: str) -> None:
        with self._lock:
            self._published.pop(key(message_id), None)

    def take_unclaimed(self, scope: str, *, limit: int) -> list[Published]:
        with self._lock:
            now = self._clock()
            due = sorted((at, id) for id, (one, at) in self._published.items() if one.scope == scope)
            taken: list[Published] = []
            for at, id in due:
                one, _ = self._published[id]
                if at > now or len(taken) == limit:
                    break
                if self._is_claimed(one):
                    del self._published[id]
                    continue
                self._published[id] = one, now + LOOK_MS
                taken.append(one._replace(age_ms=max(0, now - one.age_ms), until=now + LOOK_MS))
            return taken

    def _is_claimed(self, one: Published) -> bool:
        """A vanished message's own lost attempts have no incarnation."""
        known = self._attempts.get(one.task_id, ())
        return any(a.message_id == one.message_id and a.incarnation for a in known)

    def look_again(self, looks: Sequence[Look]) -> None:
        with self._lock:
            for look in looks:
                one, until = self._published.get(key(look.message_id), (None, 0))
                if one is not None and until == look.until:
                    due = self._clock() + look.due_in_ms
                    self._published[one.message_id] = one._replace(missing=look.missing), due

    def declare_vanished(
        self, messages: Sequence[tuple[str, int]], *, by: str, evidence: dict[str, Any], due_in_ms: int
    ) -> list[str]:
        with self._lock:
            known = [(self._published.get(key(id)), until) for id, until in messages]
            mine = [found[0] for found, until in known if found is not None and found[1] == until]
            vanished = [one for one in mine if not self._is_claimed(one)]
            for one in vanished:
                self._vanish(one, by, {**evidence, "times": one.vanished + 1})
                if one.vanished:
                    del self._published[one.message_id]
                else:
                    again = one._replace(vanished=1, missing=0)
                    self._published[one.message_id] = again, self._clock() + due_in_ms
            return [one.task_id for one in vanished]

    def _vanish(self, one: Published, by: str, evidence: dict[str, Any]) -> None:
        now, attempts = self._clock(), self._attempts.setdefault(one.task_id, [])
        number = len(attempts) + 1
        attempts.append(
            Attempt(
                one.task_id, number, one.message_id, one.name, one.queue, "", 0, State.LOST, True, False,
                False, one.retries, "", False, None, None, OnLost.RESEND, one.loss_budget, one.age_ms, None,
                now, None, None, False, "vanished", one.message.size, one.message.why_not,
            )
        )  # fmt: skip
        self._messages[one.task_id, number] = one.message
        cause = "vanished again" if one.vanished else "vanished"
        self._recoveries[one.task_id, number] = Recovery(
            one.task_id, number, one.message_id, one.name, one.scope, RecoveryState.PENDING, 1, cause, 0,
            None, None, _plain(evidence), None, None, now, None, None, None, None,
        )  # fmt: skip
        self._event(now, "vanished", actor=by, task_id=one.task_id, number=number, data=evidence)

    # -- a person's verbs -----------------------------------------------------

    def recover(self, task_id: str, *, by: str, reason: str, saw: Saw | None = None) -> Recovery | None:
        with self._lock:
            self._open_stopped(key(task_id))
            recovery = self._latest_recovery(task_id)
            if recovery is None or not recoverable(recovery.state, recovery.verdict):
                return None
            if self._moved(task_id, saw):
                return None
            if not self._kept(recovery.task_id, recovery.number):
                return None
            was = {"was": recovery.state}
            return self.decide(recovery, VerdictKind.RECOVER, reason, was, by=by)

    def discard(self, task_id: str, *, by: str, reason: str, saw: Saw | None = None) -> bool:
        with self._lock:
            recovery = self._latest_recovery(task_id)
            if recovery is None or recovery.state not in WAITS_FOR_A_PERSON or self._moved(task_id, saw):
                return False
            was = {"was": recovery.state}
            return self.decide(recovery, VerdictKind.DISCARD, reason, was, by=by) is not None

    def _moved(self, task_id: str, saw: Saw | None) -> bool:
        if saw is None:
            return False
        one, its = self._attempts[key(task_id)][-1], self._latest_recovery(task_id)
        told = (None, None) if its is None else (its.state, its.verdict)
        return not saw.holds(one.number, one.state, *told)

    def _open_stopped(self, task_id: str) -> None:
        """An attempt that was stopped and not lost has no recovery until a person recovers it."""
        attempts = self._attempts.get(task_id)
        if not attempts or attempts[-1].state is not State.REVOKED:
            return
        one, now = attempts[-1], self._clock()
        if (task_id, one.number) in self._recoveries or not self._kept(task_id, one.number):
            return
        self._recoveries[task_id, one.number] = Recovery(
            task_id, one.number, one.message_id, one.name, self._workers[one.incarnation].scope,
            RecoveryState.DONE, 1, "stop", 0, VerdictKind.REVOKED, one.reason, {}, None, None, now, None,
            None, None, now,
        )  # fmt: skip

    def stop(self, task_id: str, *, by: str, reason: str, saw: Saw | None = None) -> Stopped | None:
        by, reason = storable(by), storable(reason)
        with self._lock:
            attempts = self._attempts.get(key(task_id))
            if not attempts or self._moved(task_id, saw):
                return None
            one, place = attempts[-1], (key(task_id), len(attempts))
            recovery = self._recoveries.get(place)
            if recovery is not None:
                if not stoppable(recovery.state, recovery.verdict):
                    return None
                was = {"was": recovery.state}
                decided = self.decide(recovery, VerdictKind.REVOKED, reason, was, by=by)
                return None if decided is None else Stopped(one.number, one.state, decided)
            if one.state not in OPEN | MAY_FOLLOW:
                return None
            if place not in self._orders:
                self._orders[place] = _Stop(one.incarnation, by, reason)
                self._event(
                    self._clock(), "stop", actor=by, task_id=place[0], number=place[1],
                    data={"reason": reason, "was": one.state},
                )  # fmt: skip
            return Stopped(one.number, one.state, None)

    def note(
        self, kind: str, task_id: str | None, number: int | None, actor: str, data: dict[str, Any]
    ) -> None:
        with self._lock:
            task = None if task_id is None else key(task_id)
            self._event(self._clock(), storable(kind), actor=actor, task_id=task, number=number, data=data)

    def _latest_recovery(self, task_id: str) -> Recovery | None:
        task = key(task_id)
        return self._recoveries.get((task, len(self._attempts.get(task, ()))))

    # -- retention ------------------------------------------------------------

    def prune_tasks(self, old: Old, after: Mark = START, *, limit: int, only_count: bool = False) -> Pruned:
        with self._lock:
            looked_at = sorted(
                Mark(a.received_at, a.task_id)
                for some in self._attempts.values()
                for a in some
                if a.received_at < old.finished and Mark(a.received_at, a.task_id) > after
            )[:limit]
            over = {mark.task_id for mark in looked_at if not self._is_kept(mark.task_id, old)}
            if not only_count:
                for task_id in over:
                    self._forget_task(task_id)
            return Pruned(len(over), looked_at[-1] if len(looked_at) == limit else None)

    def _is_kept(self, task_id: str, old: Old) -> bool:
        was_lost = any(task == task_id for task, _ in self._recoveries)
        before = old.lost if was_lost else old.finished
        return (
            any(
                a.state in OPEN or a.finished_at is None or a.finished_at >= before
                for a in self._attempts[task_id]
            )
            or any(
                r.state is not RecoveryState.DONE or (r.done_at or 0) >= before
                for (task, _), r in self._recoveries.items()
                if task == task_id
            )
            or any(task == task_id and not order.done for (task, _), order in self._orders.items())
            or any(one.task_id == task_id for one, _ in self._published.values())
        )

    def _forget_task(self, task_id: str) -> None:
        self._checkpoints.pop(task_id, None)
        for number in range(1, len(self._attempts.pop(task_id)) + 1):
            for known in (self._messages, self._recoveries, self._orders):
                known.pop((task_id, number), None)

    def prune_rest(self, old: Old, *, limit: int) -> int:
        with self._lock:
            lone = [e for e in self._events if e.at < old.events and e.task_id not in self._attempts]
            events = sorted(lone, key=lambda event: event.at)[:limit]
            self._events = [event for event in self._events if event not in events]
            used = {attempt.incarnation for some in self._attempts.values() for attempt in some}
            used |= {event.incarnation for event in self._events if event.task_id and event.incarnation}
            gone = [
                worker.id
                for worker in self._workers.values()
                if worker.state is not WorkerState.ALIVE and worker.cleared
                if worker.id not in used and (worker.ended_at or old.finished) < old.finished
            ][:limit]
            for id in gone:
                del self._workers[id]
                self._running.pop(id, None)
            return len(events) + len(gone)

    # -- parts ----------------------------------------------------------------

    def _at(self, task_id: str, number: int) -> Attempt:
        return self._attempts[task_id][number - 1]

    def _set(self, attempt: Attempt, **changes: Any) -> None:
        self._attempts[attempt.task_id][attempt.number - 1] = replace(attempt, **changes)

    def _kept(self, task_id: str, number: int) -> bool:
        message = self._messages.get((task_id, number))
        return message is not None and message.body is not None

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
        if incarnation is not None and seq is not None:
            if (incarnation, seq) in self._once:
                return
            self._once.add((incarnation, seq))
        self._events.append(
            Event(at, kind, task_id, number, incarnation, seq, storable(actor), _plain(data or {}))
        )

    def _verdict_event(
        self, now: int, recovery: Recovery, verdict: VerdictKind, reason: str, by: str,
        evidence: dict[str, Any],
    ) -> None:  # fmt: skip
        self._event(
            now, "verdict", actor=by, task_id=recovery.task_id, number=recovery.number,
            data={"verdict": verdict, "reason": reason, "evidence": evidence},
        )  # fmt: skip


def _plain(data: dict[str, Any]) -> dict[str, Any]:
    """The facts as a database would give them back."""
    plain: dict[str, Any] = json.loads(as_json(data))
    return plain
