"""Checkpoints in SQL: one row for each task that makes any, written and read by the batch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from crisper.core.model import Checkpoint, Fence
from crisper.store.database import Row
from crisper.store.rows import among

if TYPE_CHECKING:
    from crisper.store.sql.parts import Parts

#: The attempt that it is of, while that is open.
_OF_ATTEMPT = """ FROM crisper_attempt a
 WHERE a.task_id = ? AND a.incarnation = ? AND a.seq = ? AND a.state IN ('claimed', 'running')"""
_SAVE = f"""
UPDATE crisper_checkpoint SET saved_at = ?, data = ?, preview = ?, number = (SELECT a.number{_OF_ATTEMPT})
 WHERE task_id = ? AND EXISTS (SELECT 1{_OF_ATTEMPT})"""
_SAVE_FIRST = f"""
INSERT INTO crisper_checkpoint (task_id, number, saved_at, data, preview)
SELECT a.task_id, a.number, ?, ?, ?{_OF_ATTEMPT}
ON CONFLICT DO NOTHING"""
#: A task id that is published anew after it succeeded begins at the beginning.
_LAST = """
SELECT c.task_id, c.data FROM crisper_checkpoint c
 WHERE c.task_id {these} AND NOT EXISTS (SELECT 1 FROM crisper_attempt a
       WHERE a.task_id = c.task_id AND a.number >= c.number AND a.state = 'succeeded')"""


def save(store: Parts, fence: Fence, now: int, checkpoints: Sequence[Checkpoint]) -> list[bool]:
    """Which of them are of an open attempt, and kept, or replaced by a later one of these."""
    newest = {(one.task_id, one.claim_seq): one for one in checkpoints}
    rows: list[tuple[Row, Row]] = [
        ((now - one.age_ms, one.data, one.preview), (task_id, fence.incarnation, claim_seq))
        for (task_id, claim_seq), one in sorted(newest.items())
    ]
    written = store.db.each(_SAVE, [(*said, *place, place[0], *place) for said, place in rows])
    kept = {
        (place[0], place[2])
        for (said, place), changed in zip(rows, written, strict=True)
        if changed or store.db.run(_SAVE_FIRST, *said, *place)
    }
    return [(one.task_id, one.claim_seq) in kept for one in checkpoints]


def last(store: Parts, tasks: Collection[str]) -> dict[str, str]:
    """By task, where its next attempt may go on."""
    these, ids = among(sorted(tasks))
    return {task: str(data) for task, data in store.db.rows(_LAST.format(these=these), *ids)}
