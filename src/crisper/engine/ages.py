"""Tasks by when they were received: a few are looked at first, where an index alone tells which these are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, FromClause, Select, select, tuple_

from crisper.engine.filters import Filters
from crisper.engine.narrowing import FEW_AT_A_TIME, OPEN_WORDS, STATES_OF, is_failure, is_open
from crisper.store.schema import FAILED, attempt

#: So many times what is shown are looked at first.
FEW = (4, 16, 64, 256)

_ITS = attempt.alias()


def by_their_age(
    connection: Connection,
    question: Select[Any],
    filters: Filters,
    most: int,
    *,
    oldest: bool,
    before: int | None = None,
) -> Sequence[Any]:
    """So many of the tasks that the filters select, by when they were received. Where an index tells of
    them, a few are looked at first, and more only if the question leaves too many of those out."""
    question = question.order_by(*_by_age(filters, oldest=oldest)).limit(most)
    states = () if filters.lost_by is not None else filters.states
    for times in FEW:
        few = _among_the_first(states, connection.dialect.name, times * most, oldest=oldest, before=before)
        if not few:
            break
        rows = connection.execute(question.where(*few)).all()
        if len(rows) == most:
            return rows
    return connection.execute(question).all()


def _by_age(filters: Filters, *, oldest: bool) -> list[ColumnElement[Any]]:
    """How these tasks are sorted by when they were received. Where there are few of them, not by the index
    of all tasks: a database that takes them to be spread evenly would look through history for one."""
    at: ColumnElement[int] = attempt.c.received_at
    at = at + 0 if filters.tell_of_few else at
    return [at, attempt.c.task_id] if oldest else [at.desc(), attempt.c.task_id.desc()]


def _among_the_first(
    states: Collection[str], dialect: str, most: int, *, oldest: bool, before: int | None = None
) -> list[ColumnElement[bool]]:
    """Of so many of the tasks of these states, at least, that were received first, or last; `before` then.

    An index alone tells which these are, so that no other is read: PostgreSQL's of open attempts, or that of
    the failed. Empty where there is none.
    """
    asked = set(states)
    if not asked or dialect == "mysql":
        return []
    its = _ITS
    if dialect == "postgresql" and asked <= OPEN_WORDS:
        these = [is_open(its), its.c.state.in_(sorted(asked))]
        within = _first(most, these, oldest, before)
        first = select(its.c.incarnation, its.c.seq).where(*within)
        return [is_open(attempt), tuple_(attempt.c.incarnation, attempt.c.seq).in_(first)]
    if not asked & FEW_AT_A_TIME and all(STATES_OF[word] <= set(FAILED) for word in asked):
        return [is_failure(attempt), _first(most, [is_failure(its)], oldest, before, of=attempt)[-1]]
    return []


def _first(
    most: int, these: list[ColumnElement[bool]], oldest: bool, before: int | None, of: FromClause = _ITS
) -> list[ColumnElement[bool]]:
    """`these`, and that they were not received after, or before, so many of them."""
    at = _ITS.c.received_at
    if before is not None:
        these = [*these, at <= before]
    end = select(at).where(*these).order_by(at if oldest else at.desc()).offset(most - 1).limit(1)
    bound = end.correlate(None).scalar_subquery()
    return [*these, of.c.received_at <= bound if oldest else of.c.received_at >= bound]
