"""The audit trail's events, each with the worker and the attempt that it is about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, func, or_, select

from crisper.engine.answers import of_event
from crisper.engine.filters import equals, glob, is_task
from crisper.engine.reading import Reading
from crisper.store.schema import attempt, event, incarnation

#: A loss is written under its claim's number, negated.
_LOST_NUMBER = (
    select(attempt.c.number)
    .where(
        attempt.c.task_id == event.c.task_id,
        attempt.c.incarnation == event.c.incarnation,
        attempt.c.seq == -event.c.seq,
        event.c.kind == "lost",
    )
    .limit(1)
    .correlate(event)
    .scalar_subquery()
    .label("lost_number")
)


def all_events() -> Select[Any]:
    worker = func.coalesce(incarnation.c.hostname, event.c.incarnation).label("worker")
    return select(event, worker, _LOST_NUMBER).join(
        incarnation, incarnation.c.id == event.c.incarnation, isouter=True
    )


class Wanted(NamedTuple):
    """Which events: all of these hold."""

    task_id: str | None = None
    kinds: tuple[str, ...] = ()
    by: str | None = None  # who wrote it; * and ? stand for anything
    since_ms: int | None = None

    def conditions(self, now: int, dialect: str) -> list[ColumnElement[bool]]:
        wanted: list[ColumnElement[bool]] = []
        if self.task_id is not None:
            wanted.append(is_task(event.c.task_id, self.task_id))
        if self.kinds:
            wanted.append(or_(*(equals(event.c.kind, kind) for kind in self.kinds)))
        if self.by is not None:
            wanted.append(glob(event.c.actor, self.by, dialect))
        if self.since_ms is not None:
            wanted.append(event.c.at >= now - self.since_ms)
        return wanted


#: Rows read in one snapshot of a trail that is read as a whole.
PAGE = 1000


def whole(reading: Reading, wanted: Wanted) -> Iterator[list[dict[str, Any]]]:
    """Every such event in the order in which they were written, a page and a snapshot at a time."""
    after: int | None = None
    with reading.snapshot() as connection:
        now = reading.now(connection)
    conditions = wanted.conditions(now, reading.dialect)
    while True:
        behind = conditions if after is None else [*conditions, event.c.id > after]
        with reading.snapshot() as connection:
            question = all_events().where(*behind).order_by(event.c.id).limit(PAGE)
            rows = connection.execute(question).all()
        yield [audited(row) for row in rows]
        if len(rows) < PAGE:
            return
        after = rows[-1].id


def audited(row: Any) -> dict[str, Any]:
    return {"id": row.id, "task_id": row.task_id, **of_event(row, row.number or row.lost_number)}
