"""The audit trail's events, each with the worker and the attempt that it is about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, func, or_, select

from crisper.engine.answers import of_event
from crisper.engine.filters import bounded, cursor_of, equals, event_of, glob, is_task
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


#: Events that one page looks at: of what few of them are, a long trail has none in most of its parts.
LOOKED_AT = 20_000


def newest(reading: Reading, wanted: Wanted, *, limit: int, before: str | None = None) -> dict[str, Any]:
    """The newest events, in the order in which they were written, of `LOOKED_AT`; `older` is the cursor that
    asks for those before them, None if there are none. Raises as `Reading.snapshot` does, and `BadQuestion`.
    """
    behind = None if before is None else event_of(before)
    with reading.snapshot() as connection:
        conditions = wanted.conditions(reading.now(connection), reading.dialect)
        conditions += [event.c.id < behind] if behind is not None else []
        first = None if wanted.task_id is not None else _first(connection, behind)
        conditions += [event.c.id >= first] if first is not None else []
        question = all_events().where(*conditions).order_by(event.c.id.desc()).limit(bounded(limit) + 1)
        rows = connection.execute(question).all()
    older = rows[limit - 1].id if len(rows) > limit else first
    shown = [audited(row) for row in rows[:limit][::-1]]
    return {"events": shown, "older": None if older is None else cursor_of(older)}


def following(reading: Reading, wanted: Wanted, *, limit: int, after: str | None = None) -> dict[str, Any]:
    """Events in the order in which they were written, of `LOOKED_AT`; `next` asks for those after them, and
    is `after` if there are none yet. Raises as `newest` does.
    """
    behind = None if after is None else event_of(after)
    with reading.snapshot() as connection:
        conditions = wanted.conditions(reading.now(connection), reading.dialect)
        conditions += [event.c.id > behind] if behind is not None else []
        last = None if wanted.task_id is not None else _last(connection, behind)
        conditions += [event.c.id <= last] if last is not None else []
        question = all_events().where(*conditions).order_by(event.c.id).limit(bounded(limit))
        rows = connection.execute(question).all()
    reached = rows[-1].id if len(rows) == limit or (rows and last is None) else last
    return {"events": list(map(audited, rows)), "next": after if reached is None else cursor_of(reached)}


def _first(connection: Connection, before: int | None) -> int | None:
    """The oldest event that is looked at; None if those are all."""
    newest = before - 1 if before is not None else _end(connection, func.max)
    first = newest - LOOKED_AT + 1
    return first if first > _end(connection, func.min) else None


def _last(connection: Connection, after: int | None) -> int | None:
    """The newest event that is looked at; None if those are all."""
    oldest = after if after is not None else _end(connection, func.min) - 1
    last = max(oldest, _end(connection, func.min) - 1) + LOOKED_AT
    return last if last < _end(connection, func.max) else None


def _end(connection: Connection, which: Any) -> int:
    return int(connection.execute(select(which(event.c.id))).scalar() or 0)


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
