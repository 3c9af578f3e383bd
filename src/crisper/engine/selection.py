"""Which tasks a person decides about at once: the oldest of those that the filters select."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, func, or_, select

from crisper.core.states import WAITS_FOR_A_PERSON
from crisper.engine.answers import of_task
from crisper.engine.filters import Filters, conditions
from crisper.engine.reading import Reading
from crisper.engine.survey import latest_attempts
from crisper.store.schema import attempt, recovery


class Selected(NamedTuple):
    """One task, and what its latest attempt may have done already."""

    task_id: str
    name: str
    state: str
    begun: bool  # its body was running
    may_have_begun: bool  # acknowledged early and handed to the pool; nobody saw it running


class Selection(NamedTuple):
    tasks: list[Selected]  # the oldest first
    matching: int  # of all tasks


def selection(reading: Reading, filters: Filters, *, most: int, recoverable: bool = False) -> Selection:
    """At most so many of the matching tasks, and how many match, in one snapshot.

    `recoverable` leaves out what neither waits for a person nor has its message: a task that failed by
    itself is no loss. Raises as `Survey.tasks` does.
    """
    with reading.snapshot() as connection:
        wanted = conditions(filters, reading.now(connection), reading.dialect)
        if recoverable:
            wanted.append(_RECOVERABLE)
        rows: Sequence[Any] = connection.execute(
            latest_attempts()
            .add_columns(attempt.c.acks_late, attempt.c.dispatched, attempt.c.counted)
            .where(*wanted)
            .order_by(attempt.c.received_at, attempt.c.task_id)
            .limit(most)
        ).all()
        matching = len(rows) if len(rows) < most else connection.execute(_how_many(wanted)).scalar_one()
    return Selection([_selected(row) for row in rows], matching)


_RECOVERABLE = or_(recovery.c.state.in_(sorted(WAITS_FOR_A_PERSON)), attempt.c.body.is_not(None))


def _how_many(wanted: list[ColumnElement[bool]]) -> Any:
    ids = latest_attempts().with_only_columns(attempt.c.task_id, maintain_column_froms=True).where(*wanted)
    return select(func.count()).select_from(ids.subquery())


def _selected(row: Any) -> Selected:
    task = of_task(row)
    begun = row.started_at is not None or bool(row.counted)
    early = not row.acks_late and bool(row.dispatched)
    return Selected(task["task_id"], task["name"], task["state"], begun, early and not begun)
