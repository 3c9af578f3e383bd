"""Which tasks a person decides about at once: the oldest of those that the filters select."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, func, select

from crisper.core.states import WAITS_FOR_A_PERSON
from crisper.engine.ages import by_their_age
from crisper.engine.answers import has_begun, of_task
from crisper.engine.filters import Filters, conditions
from crisper.engine.narrowing import apart, is_undone
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
    counted_all: bool = True


class Asked(NamedTuple):
    filters: Filters
    most: int
    kept: bool = False  # only those whose message is kept: no other can be sent again
    unordered: bool = False  # only those that are not ordered to stop already
    counted: int | None = None  # how many are counted at most; all, if that is not said


def selection(reading: Reading, asked: Asked) -> Selection:
    """The matching tasks, and how many match, in one snapshot. Raises as `Survey.tasks` does."""
    rows: list[Any] = []
    matching = 0
    with reading.snapshot() as connection:
        now = reading.now(connection)
        unkept = _unkept(connection, asked.filters, now) if asked.kept else 0
        for states in apart(asked.filters.states):  # each has an index of its own
            filters = replace(asked.filters, states=states)
            wanted = conditions(filters, now, reading.dialect)
            found, count = _oldest(connection, [*wanted, *_more(asked)], asked, filters)
            rows, matching = rows + found, matching + count
    rows.sort(key=lambda row: (row.received_at, row.task_id))
    counted_all = asked.counted is None or matching < asked.counted
    return Selection([_selected(row) for row in rows[: asked.most]], matching, unkept, counted_all)


def _more(asked: Asked) -> Iterator[ColumnElement[bool]]:
    if asked.kept:
        yield attempt.c.body.is_not(None)
    if asked.unordered:
        yield ~_ORDERED


def _oldest(
    connection: Connection,
    wanted: list[ColumnElement[bool]],
    asked: Asked,
    filters: Filters,
) -> tuple[list[Any], int]:
    """So many as are asked for, and how many there are."""
    question = (
        latest_attempts()
        .add_columns(attempt.c.acks_late, attempt.c.dispatched, attempt.c.counted)
        .where(*wanted)
    )
    rows = by_their_age(connection, question, filters, asked.most, oldest=True)
    if len(rows) < asked.most:
        return list(rows), len(rows)
    return list(rows), int(connection.execute(_how_many(wanted, asked.counted)).scalar_one())


def _unkept(connection: Connection, filters: Filters, now: int) -> int:
    """Of those that wait for a person: what is over has not kept its message either, and nobody misses it."""
    waiting = tuple(state for state in filters.states if state in WAITS_FOR_A_PERSON)
    if filters.states and not waiting:
        return 0
    wanted = conditions(replace(filters, states=waiting), now, connection.dialect.name)
    return int(connection.execute(_how_many([*wanted, *_UNKEPT])).scalar_one())


_UNKEPT = (is_undone(recovery), recovery.c.state.in_(sorted(WAITS_FOR_A_PERSON)), attempt.c.body.is_(None))
_ORDERED = (
    select(order.c.number)
    .where(order.c.task_id == attempt.c.task_id, order.c.number == attempt.c.number)
    .exists()
    .correlate(attempt)
)


def _how_many(wanted: list[ColumnElement[bool]], most: int | None = None) -> Any:
    ids = latest_attempts().with_only_columns(attempt.c.task_id, maintain_column_froms=True).where(*wanted)
    return select(func.count()).select_from(ids.limit(most).subquery())


def _selected(row: Any) -> Selected:
    task = of_task(row)
    return Selected(task["task_id"], task["name"], task["state"], *has_begun(row), task["attempt"])
