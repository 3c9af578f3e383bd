"""What is old is forgotten."""

from __future__ import annotations

from crisper.core.states import OPEN, RecoveryState, WorkerState
from crisper.store.base import START, Mark, Old, Pruned
from crisper.store.memory.tables import Tables


class Retention(Tables):
    """The verbs of the pruner."""

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
