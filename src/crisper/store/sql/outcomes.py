"""What granted attempts say of themselves: they began, they are this far, they ended."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from crisper.core.model import Answer, Checkpoint, ChildLost, Fence, Finish, Note, Start
from crisper.core.states import State
from crisper.store import checkpoints
from crisper.store.rows import IS_OPEN

if TYPE_CHECKING:
    from crisper.store.sql.records import Records

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
 WHERE task_id = ? AND incarnation = ? AND seq = ? AND {IS_OPEN}"""

_OPEN = f"SELECT 1 FROM crisper_attempt WHERE task_id = ? AND incarnation = ? AND seq = ? AND {IS_OPEN}"

#: Giving back is for what can still come again.
_GIVE_BACK = f"{_FINISH} AND NOT copy_refused"

#: One that a person stopped keeps its message, so that a person can recover it.
_REVOKE = _FINISH.replace(
    "envelope = NULL, body = NULL",
    "envelope = CASE WHEN EXISTS ({0}) THEN envelope END, body = CASE WHEN EXISTS ({0}) THEN body END".format(
        "SELECT 1 FROM crisper_order o"
        " WHERE o.task_id = crisper_attempt.task_id AND o.number = crisper_attempt.number"
    ),
)


class Outcomes:
    """Starts, checkpoints, ends and losses of one batch."""

    def __init__(
        self, store: Records, fence: Fence, now: int, renewing: Collection[str] | None = None
    ) -> None:
        self.store, self.db, self.fence, self.now = store, store.db, fence, now
        self.judges = renewing is not None
        self.renewing = renewing or ()
        self.answers: list[Answer] = []

    def _starts(self, starts: Sequence[Start]) -> None:
        me = self.fence.incarnation
        running = [s for s in starts if s.pid]
        dispatched = [s for s in starts if not s.pid]
        self.db.each(_DISPATCH, [(s.task_id, me, s.claim_seq) for s in dispatched])
        self.db.each(
            _START,
            [(s.pid, s.pid_start, self.now - s.age_ms, s.task_id, me, s.claim_seq) for s in running],
        )

    def _checkpoints(self, made: Sequence[Checkpoint]) -> None:
        if made:
            kept = checkpoints.save(self.store, self.fence, self.now, made)
            for one, is_kept in zip(made, kept, strict=True):
                self._answer(one.seq, "kept" if is_kept else "late")

    def _finishes(self, finishes: Sequence[Finish]) -> None:
        """Most by one statement; those of tasks that a person may have stopped by another."""
        revoked = [f for f in finishes if f.state is State.REVOKED]
        if revoked:
            self._hold(revoked)
            self._finish(_REVOKE, revoked)
            finishes = [f for f in finishes if f.state is not State.REVOKED]
        given_back = [f for f in finishes if f.state is State.RELEASED]
        if given_back:
            self._give_back(given_back)
            finishes = [f for f in finishes if f.state is not State.RELEASED]
        self._finish(_FINISH, finishes)

    def _hold(self, finishes: Sequence[Finish]) -> None:
        """Whoever orders one of them to stop holds it meanwhile: a statement that waited for that would still
        not see the order, which is newer than its snapshot."""
        for finish in sorted(finishes, key=lambda finish: finish.task_id):
            self.db.rows(_OPEN + self.db.lock, finish.task_id, self.fence.incarnation, finish.claim_seq)

    def _finish(self, statement: str, finishes: Sequence[Finish]) -> None:
        for finish, closed in zip(finishes, self._close(statement, finishes), strict=True):
            self._answer(finish.seq, "closed" if closed else self._not_open(finish))

    def _give_back(self, finishes: Sequence[Finish]) -> None:
        """What was refused meanwhile as its copy may have been its only delivery: then it is lost, and a
        courier sends it again."""
        for finish, closed in zip(finishes, self._close(_GIVE_BACK, finishes), strict=True):
            lost = not closed and self.store._lose(
                self.now,
                self.fence.incarnation,
                [(finish.task_id, finish.claim_seq)],
                closing=finish.seq,
                counted=False,
                cause="shutdown",
                by="worker",
                evidence={"how": finish.reason or "given back"},
            )
            self._answer(finish.seq, "closed" if closed or lost else self._not_open(finish))

    def _close(self, statement: str, finishes: Sequence[Finish]) -> list[int]:
        me = self.fence.incarnation
        return self.db.each(
            statement,
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

    def _began(self, finish: Finish) -> int | None:
        if finish.runtime_ms is None:
            return None
        return self.now - finish.age_ms - finish.runtime_ms

    def _not_open(self, finish: Finish) -> str:
        closed_by = self.store._closed_by(self.fence, finish)
        if closed_by == finish.seq:
            return "closed"
        if closed_by is None and finish.state is State.RELEASED:
            return "late"  # of what was not granted after all, or is fenced: nothing ended
        self.store._late(self.now, self.fence, finish, "the attempt was closed before")
        return "late"

    def _child_lost(self, loss: ChildLost) -> None:
        lost = self.store._lose(
            self.now,
            self.fence.incarnation,
            [(loss.task_id, loss.claim_seq)],
            closing=loss.seq,
            counted=loss.counted,
            cause="child" if loss.counted else "shutdown",
            by="worker",
            evidence=loss.evidence,
        )
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

    def _answer(self, seq: int, kind: str, number: int = 0, reason: str = "") -> None:
        self.answers.append(Answer(seq, kind, number, reason))
