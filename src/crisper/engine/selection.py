"""Which tasks a person decides about at once: the oldest of those that the filters select."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, func, select

from crisper.core.states import WAITS_FOR_A_PERSON
from crisper.engine.answers import of_task
from crisper.engine.filters import Filters, conditions
from crisper.engine.reading import Reading
from crisper.engine.survey import latest_attempts
from crisper.store.schema import attempt, order, recovery


class Selected(NamedTuple):
    """One task, and what its latest attempt may have done already."""

    task_id: str
    name: str
    state: str
    begun: bool  # its body was running
    may_have_begun: bool  # acknowledged early and handed to the pool; nobody saw it running
    attempt: int = 1  # its latest


class Selection(NamedTuple):
    tasks: list[Selected]  # the oldest first
    matching: int  # of all tasks
    unkept: int = 0  # that wait for a person and were left out, because their messages are not kept


class Asked(NamedTuple):
    filters: Filters
    most: int
    kept: bool = False  # only those whose message is kept: no other can be sent again
    unordered: bool = False  # only those that are not ordered to stop already


def selection(reading: Reading, asked: Asked) -> Selection:
    """The matching tasks, and how many match, in one snapshot. Raises as `Survey.tasks` does."""
    with reading.snapshot() as connection:
        wanted = conditions(asked.filters, reading.now(connection), reading.dialect)
        unkept = connection.execute(_how_many([*wanted, *_UNKEPT])).scalar_one() if asked.kept else 0
        if asked.kept:
            wanted.append(attempt.c.body.is_not(None))
        if asked.unordered:
            wanted.append(~_ORDERED)
        rows: Sequence[Any] = connection.execute(
            latest_attempts()
            .add_columns(attempt.c.acks_late, attempt.c.dispatched, attempt.c.counted)
            .where(*wanted)
            .order_by(attempt.c.received_at, attempt.c.task_id)
            .limit(asked.most)
        ).all()
        full = len(rows) == asked.most
        matching = connection.execute(_how_many(wanted)).scalar_one() if full else len(rows)
    return Selection([_selected(row) for row in rows], matching, unkept)


_UNKEPT = (recovery.c.state.in_(sorted(WAITS_FOR_A_PERSON)), attempt.c.body.is_(None))
_ORDERED = (
    select(order.c.number)
    .where(order.c.task_id == attempt.c.task_id, order.c.number == attempt.c.number)
    .exists()
    .correlate(attempt)
)


def _how_many(wanted: list[ColumnElement[bool]]) -> Any:
    ids = latest_attempts().with_only_columns(attempt.c.task_id, maintain_column_froms=True).where(*wanted)
    return select(func.count()).select_from(ids.subquery())


def _selected(row: Any) -> Selected:
    task = of_task(row)
    begun = row.started_at is not None or bool(row.counted)
    early = not row.acks_late and bool(row.dispatched)
    return Selected(task["task_id"], task["name"], task["state"], begun, early and not begun, task["attempt"])
