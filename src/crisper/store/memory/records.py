"""What a worker's recorder writes: batches of records, each applied once."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from crisper.core.model import Answer, Checkpoint, ChildLost, Claim, Fence, Finish, Note, Order, Record, Start
from crisper.core.order import late_of
from crisper.core.states import MAY_FOLLOW, OPEN, WorkerState
from crisper.core.text import storable_record
from crisper.core.verdict import stopped_by
from crisper.errors import Fenced
from crisper.store.memory.claims import Claims


class Records(Claims):
    """The verbs of a recorder."""

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
