"""Where tasks of some states are to be found: among the few that an index holds, not in all history.

A question's own conditions say what must hold of a task; these only say which index tells of it. Words are
written out in them, because SQLite takes a partial index only where its very condition stands.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Select, Subquery, literal_column, select, union_all

from crisper.core.states import (
    BRINGS_BACK,
    OPEN,
    UNDER_WAY,
    WAITS_FOR_A_PERSON,
    RecoveryState,
    task_words,
)
from crisper.store.schema import FAILED, attempt, recovery

#: Recoveries that are looked at for tasks that were sent again and not claimed yet: a history has many more.
MOST_SENT = 5_000

_RECOVERING = "recovering"
_OPEN_WORDS = frozenset(state.value for state in OPEN)
_WAITING_WORDS = frozenset(state.value for state in WAITS_FOR_A_PERSON)
#: States that few tasks are in at a time, found by indexes of their own.
FEW_AT_A_TIME = _OPEN_WORDS | _WAITING_WORDS | {_RECOVERING}
_STATES_OF = {word: {state.value for state, *_ in told} for word, told in task_words().items()}


# -- the conditions of partial indexes ---------------------------------------


def is_open(attempts: FromClause) -> ColumnElement[bool]:
    return attempts.c.state.in_(_written_out(("claimed", "running")))


def is_failure(attempts: FromClause) -> ColumnElement[bool]:
    return attempts.c.state.in_(_written_out(FAILED))


def is_done(recoveries: FromClause) -> ColumnElement[bool]:
    [done] = _written_out((RecoveryState.DONE,))
    return recoveries.c.state == done


def is_undone(recoveries: FromClause) -> ColumnElement[bool]:
    [done] = _written_out((RecoveryState.DONE,))
    return recoveries.c.state != done


def _written_out(words: Collection[str]) -> list[ColumnElement[str]]:
    return [literal_column(f"'{word}'") for word in words]


# -- tasks of some states ----------------------------------------------------


def narrowed(states: Collection[str], dialect: str) -> list[ColumnElement[bool]]:
    """For tasks that are in one of these states."""
    asked = set(states)
    if asked <= _OPEN_WORDS:
        return [is_open(attempt)] if asked and dialect == "sqlite" else []
    if asked <= FEW_AT_A_TIME:
        return [attempt.c.task_id.in_(union_all(*_sources(asked)))]
    # PostgreSQL sees by itself what an index holds, and of what is said twice it expects too little.
    if dialect == "sqlite" and set[str]().union(*(_STATES_OF[word] for word in asked)) <= set(FAILED):
        return [is_failure(attempt)]
    return []


def received(states: Collection[str]) -> ColumnElement[int]:
    """When a task was, to sort those of these states by. Where they are few, not by the index of all tasks: a
    database that takes them to be spread evenly would look through history for the first of them."""
    return attempt.c.received_at + 0 if states and set(states) <= FEW_AT_A_TIME else attempt.c.received_at


def apart(states: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The states in groups that one index each tells of: a question of each is cheaper than one of all."""
    opened = tuple(state for state in states if state in _OPEN_WORDS)
    others = tuple(state for state in states if state not in _OPEN_WORDS)
    return [group for group in (opened, others) if group] or [()]


def _sources(asked: set[str]) -> list[Select[Any]]:
    """Tasks, by all that an index tells of: what is true of them the question itself says."""
    found = []
    if asked & _OPEN_WORDS:
        its = attempt.alias()
        found.append(select(its.c.task_id).where(is_open(its)))
    under_way = {state.value for state in UNDER_WAY} if _RECOVERING in asked else set()
    if waits := under_way | asked & _WAITING_WORDS:
        found.append(_undone(waits))
    if _RECOVERING in asked:
        found.append(sent_again())
    return found


def _undone(states: Collection[str]) -> Select[Any]:
    its = recovery.alias()
    return select(its.c.task_id).where(is_undone(its), its.c.state.in_(sorted(states)))


def sent_again() -> Select[Any]:
    """Tasks whose latest attempt is lost, and whose message is on its way again: of the newest so sent."""
    newest = (
        select(recovery.c.task_id, recovery.c.number, recovery.c.verdict)
        .where(is_done(recovery))
        .order_by(recovery.c.done_at.desc())
        .limit(MOST_SENT)
        .subquery()
    )
    return select(newest.c.task_id).where(newest.c.verdict.in_(sorted(BRINGS_BACK)), is_latest(newest))


def begun_since(since: int) -> Subquery:
    """Recoveries that were begun since: under way, or done since then."""
    undone, done = recovery.alias(), recovery.alias()
    kept = ("task_id", "number", "cause")
    return union_all(
        select(*(undone.c[name] for name in kept)).where(is_undone(undone), undone.c.created_at >= since),
        select(*(done.c[name] for name in kept)).where(
            is_done(done), done.c.done_at >= since, done.c.created_at >= since
        ),
    ).subquery()


def is_latest(table: FromClause) -> ColumnElement[bool]:
    """No later attempt of its task is on record."""
    later = attempt.alias()
    return ~(
        select(later.c.number)
        .where(later.c.task_id == table.c.task_id, later.c.number > table.c.number)
        .exists()
    )
