"""The audit trail's events, each with the worker and the attempt that it is about."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, Select, func, or_, select

from crisper.engine.answers import of_event
from crisper.engine.filters import equals, is_task
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


def wanted_events(task_id: str | None, kinds: Iterable[str]) -> list[ColumnElement[bool]]:
    wanted: list[ColumnElement[bool]] = []
    if task_id is not None:
        wanted.append(is_task(event.c.task_id, task_id))
    if kinds := tuple(kinds):
        wanted.append(or_(*(equals(event.c.kind, kind) for kind in kinds)))
    return wanted


def audited(row: Any) -> dict[str, Any]:
    return {"id": row.id, "task_id": row.task_id, **of_event(row, row.number or row.lost_number)}
