"""What a worker's recorder writes: batches of records, each applied once."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from crisper.core.model import Answer, ChildLost, Fence, Finish, Order, Record
from crisper.core.order import in_order, late_of, segments
from crisper.core.states import MAY_FOLLOW, OPEN, State
from crisper.core.text import storable_record
from crisper.core.verdict import stopped_by
from crisper.errors import Fenced
from crisper.store.sql.batch import Batch
from crisper.store.sql.parts import verb
from crisper.store.sql.recoveries import CLOSE_ORDER, Recoveries


class Records(Recoveries):
    """The verbs of a recorder."""

    @verb
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
                    batch.apply(segment, written.refused)
                return in_order([*answers, *batch.answers], records)
        raise Fenced(f"incarnation {fence.incarnation} or its recorder's generation is over")

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

    @verb
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
