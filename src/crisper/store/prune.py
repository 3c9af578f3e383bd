"""Forgetting, in SQL: tasks that are over and old, a batch at a time; and what is old and of no task.

A task goes as a whole, with its recoveries and orders, or stays as a whole. Nothing that may still matter
goes: what is open, waits for a person or a courier, or is ordered to stop and may come again. Its events,
few as they are, outlive it: they are the audit trail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crisper.core.states import OPEN, RecoveryState, State
from crisper.store.base import Mark, Old, Pruned
from crisper.store.rows import among

if TYPE_CHECKING:
    from crisper.store.sql.parts import Parts

#: An attempt may have been received so long before its incarnation is on record, in ms.
EARLY_MS = 600_000

_OF_TASKS = ("crisper_attempt", "crisper_recovery", "crisper_order", "crisper_checkpoint")

_LOOKED_AT = """
SELECT received_at, task_id FROM crisper_attempt
 WHERE received_at < ? AND (received_at > ? OR received_at = ? AND task_id > ?)
 ORDER BY received_at, task_id LIMIT ?"""

_LONE_EVENTS = """
SELECT id FROM crisper_event e WHERE at < ? AND NOT EXISTS (
       SELECT 1 FROM crisper_attempt a WHERE a.task_id = e.task_id) ORDER BY at LIMIT ?"""

#: By the time of its attempts, which is indexed: few are left that are so old. What the audit trail says
#: of a task names its worker.
_LONE_INCARNATIONS = """
SELECT id FROM crisper_incarnation i
 WHERE state <> 'alive' AND cleared AND ended_at < ? AND NOT EXISTS (
       SELECT 1 FROM crisper_attempt a
        WHERE a.received_at BETWEEN i.started_at - ? AND i.ended_at AND a.incarnation = i.id)
   AND NOT EXISTS (
       SELECT 1 FROM crisper_event e WHERE e.incarnation = i.id AND e.task_id IS NOT NULL) LIMIT ?"""


def tasks(store: Parts, old: Old, after: Mark, limit: int, only_count: bool) -> Pruned:
    looked_at = store.db.rows(_LOOKED_AT, old.finished, after.received_at, *after, limit)
    if not looked_at:
        return Pruned(0, None)
    found = sorted({task_id for _, task_id in looked_at})
    over = sorted(set(found) - _kept(store, found, old))
    if over and not only_count:
        these, ids = among(over)
        for table in _OF_TASKS:
            store.db.run(f"DELETE FROM {table} WHERE task_id {these}", *ids)
    return Pruned(len(over), Mark(*looked_at[-1]) if len(looked_at) == limit else None)


def _kept(store: Parts, found: list[str], old: Old) -> set[str]:
    """Those that are not over, or not for long enough."""
    these, ids = among(found)
    attempts = store.db.rows(
        f"SELECT task_id, state, finished_at FROM crisper_attempt WHERE task_id {these}"
        f" ORDER BY task_id, number{store.db.lock}",
        *ids,
    )
    recoveries = store.db.rows(
        f"SELECT task_id, state, done_at FROM crisper_recovery WHERE task_id {these}", *ids
    )
    before = dict.fromkeys(found, old.finished) | {task: old.lost for task, _, _ in recoveries}
    return {
        *(task for task, state, at in attempts if State(state) in OPEN or at is None or at >= before[task]),
        *(task for task, state, at in recoveries if state != RecoveryState.DONE or (at or 0) >= old.lost),
        *(
            task
            for (task,) in store.db.rows(
                f"SELECT task_id FROM crisper_order WHERE task_id {these} AND done_at IS NULL", *ids
            )
        ),
        *(
            task
            for (task,) in store.db.rows(f"SELECT task_id FROM crisper_publish WHERE task_id {these}", *ids)
        ),
    }


def rest(store: Parts, old: Old, limit: int) -> int:
    events = [id for (id,) in store.db.rows(_LONE_EVENTS, old.events, limit)]
    store.db.each("DELETE FROM crisper_event WHERE id = ?", [(id,) for id in events])
    gone = [id for (id,) in store.db.rows(_LONE_INCARNATIONS, old.finished, EARLY_MS, limit)]
    store.db.each("DELETE FROM crisper_running WHERE incarnation = ?", [(id,) for id in gone])
    store.db.each("DELETE FROM crisper_incarnation WHERE id = ?", [(id,) for id in gone])
    return len(events) + len(gone)
