"""Failures in groups: of which name, how it ended, why, how often; so that a hundred read as one."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, select

from crisper.core.states import State
from crisper.engine.answers import iso
from crisper.engine.filters import bounded
from crisper.engine.narrowing import is_failure
from crisper.engine.reading import Reading
from crisper.store.schema import attempt, recovery

DAY_MS = 86_400_000

#: Groups are made of the newest so many failures, so that a night with a million of them still has an answer.
MOST = 3_000

#: How an attempt ends that did not come to a result of its own.
FAILURES = frozenset({State.FAILED, State.LOST, State.REJECTED})


def failures(reading: Reading, *, since_ms: int = DAY_MS, limit: int = 50) -> dict[str, Any]:
    """Groups of attempts received within `since_ms`, the largest first. Raises as `Reading.snapshot` does.

    What failed by itself is grouped by the type of its exception; what was lost by the verdict about it.
    """
    with reading.snapshot() as connection:
        now = reading.now(connection)
        since = now - max(since_ms, 0)
        rows = connection.execute(_question(since, bounded(limit), reading.dialect)).all()
    looked_at = int(rows[0].looked_at) if rows else 0
    return {
        "since": iso(since),
        "looked_at": looked_at,
        "complete": looked_at < MOST,
        "groups": [_group(row) for row in rows[:limit]],
        "more": len(rows) > limit,
    }


def _question(since: int, limit: int, dialect: str) -> Any:
    newest = (
        select(
            *(attempt.c.task_id, attempt.c.number, attempt.c.name, attempt.c.state, attempt.c.reason),
            attempt.c.received_at,
        )
        .where(*_failed(dialect), attempt.c.received_at >= since)
        .order_by(attempt.c.received_at.desc())
        .limit(MOST)
        .subquery()
    )
    its = and_(recovery.c.task_id == newest.c.task_id, recovery.c.number == newest.c.number)
    why = case(
        (newest.c.state == State.LOST.value, func.coalesce(recovery.c.reason, newest.c.reason)),
        else_=_before_colon(newest.c.reason, dialect),
    ).label("why")
    kinds = (newest.c.name, newest.c.state, recovery.c.verdict, why)
    count = func.count()
    return (
        select(
            newest.c.name,
            newest.c.state,
            recovery.c.verdict,
            why,
            count.label("attempts"),
            func.min(newest.c.received_at).label("oldest"),
            func.max(newest.c.received_at).label("newest"),
            func.max(newest.c.task_id).label("example"),
            func.max(newest.c.reason).label("in_full"),
            func.sum(count).over().label("looked_at"),
        )
        .select_from(newest.join(recovery, its, isouter=True))
        .group_by(*kinds)
        .order_by(count.desc(), func.max(newest.c.received_at).desc())
        .limit(limit + 1)
    )


def _failed(dialect: str) -> list[ColumnElement[bool]]:
    these = attempt.c.state.in_(sorted(FAILURES))
    return [is_failure(attempt), these] if dialect == "sqlite" else [these]


def _before_colon(text: ColumnElement[Any], dialect: str) -> ColumnElement[Any]:
    """`ValueError` of `ValueError: no such customer`."""
    if dialect == "postgresql":
        return func.split_part(text, ":", 1)
    if dialect == "mysql":
        return func.substring_index(text, ":", 1)
    return func.substr(text, 1, func.instr(text.concat(":"), ":") - 1)


def _group(row: Any) -> dict[str, Any]:
    failed = row.state != State.LOST.value
    return {
        "name": row.name,
        "state": row.state,
        "verdict": row.verdict,
        "why": row.why or None,
        "attempts": int(row.attempts),
        "first_at": iso(row.oldest),
        "last_at": iso(row.newest),
        "example": {"task_id": row.example, "reason": row.in_full if failed else row.why},
    }
