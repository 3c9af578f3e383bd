"""What an attempt that was granted says of itself: it began, it is this far, it ended."""

from __future__ import annotations

from crisper.core.model import Answer, Attempt, Checkpoint, ChildLost, Finish, Start
from crisper.core.states import State
from crisper.store.memory.recoveries import Recoveries


class Outcomes(Recoveries):
    """Starts, checkpoints, ends and losses, each by the claim it belongs to."""

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
