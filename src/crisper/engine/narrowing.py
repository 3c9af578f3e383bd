"""Where tasks of some states are to be found: among the few that an index holds, not in all history.

A question's own conditions say what must hold of a task; these only say which index tells of it. Words are
written out in them, because SQLite takes a partial index only where its very condition stands.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    FromClause,
    Select,
    Subquery,
    and_,
    literal_column,
    or_,
    select,
    union_all,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from crisper.core.states import OPEN, UNDER_WAY, WAITS_FOR_A_PERSON, RecoveryState, VerdictKind, task_words
from crisper.store.schema import BRINGS_BACK, FAILED, attempt, recovery

#: Recoveries that are looked at, the newest, for tasks that were sent again and not claimed yet. On MariaDB,
#: where no index holds these alone, of all that are done.
MOST_SENT = 5_000

_RECOVERING = "recovering"
OPEN_WORDS = frozenset(state.value for state in OPEN)
_WAITING_WORDS = frozenset(state.value for state in WAITS_FOR_A_PERSON)
#: States that few tasks are in at a time, found by indexes of their own.
FEW_AT_A_TIME = OPEN_WORDS | _WAITING_WORDS | {_RECOVERING}
STATES_OF = {word: {state.value for state, *_ in told} for word, told in task_words().items()}
#: To name a table's columns anew takes longer than most of what is asked of them.
_LATER, _UNDONE, _DONE = attempt.alias(), recovery.alias(), recovery.alias()


# -- the conditions of partial indexes ---------------------------------------


class is_open(FunctionElement[bool]):
    """Of a table of attempts. On MariaDB, which has no partial indexes, its own column says so."""

    type = Boolean()
    inherit_cache = True

    def __init__(self, attempts: FromClause) -> None:
        super().__init__(attempts.c.state)

    def self_group(self, against: Any = None) -> Any:
        """As it stands: SQLite takes its index only where the very condition is, and not `… = 1`."""
        return self


@compiles(is_open)
def _written(element: is_open, compiler: Any, **how: Any) -> str:
    return f"{compiler.process(element.clauses, **how)} IN ('claimed', 'running')"


@compiles(is_open, "mysql")
def _by_its_column(element: is_open, compiler: Any, **how: Any) -> str:
    state = compiler.process(element.clauses, **how)
    return f"{state.removesuffix('state')}open_by IS NOT NULL"


def is_failure(attempts: FromClause) -> ColumnElement[bool]:
    return attempts.c.state.in_(_written_out(FAILED))


def is_done(recoveries: FromClause) -> ColumnElement[bool]:
    [done] = _written_out((RecoveryState.DONE,))
    return recoveries.c.state == done


def is_undone(recoveries: FromClause) -> ColumnElement[bool]:
    [done] = _written_out((RecoveryState.DONE,))
    return recoveries.c.state != done


def is_sent(recoveries: FromClause) -> ColumnElement[bool]:
    """Its message is meant to run again, and no later attempt of its task is on record."""
    return and_(
        is_done(recoveries),
        recoveries.c.followed_at.is_(None),
        recoveries.c.verdict.in_(_written_out(BRINGS_BACK)),
    )


def _written_out(words: Collection[str]) -> list[ColumnElement[str]]:
    return [literal_column(f"'{word}'") for word in words]


# -- tasks of some states ----------------------------------------------------


@functools.lru_cache
def narrowed(states: frozenset[str], dialect: str) -> Sequence[ColumnElement[bool]]:
    """For tasks that are in one of these states."""
    asked = set(states)
    if asked <= OPEN_WORDS:
        return [is_open(attempt)] if asked and dialect != "postgresql" else []
    if asked <= FEW_AT_A_TIME:
        return [attempt.c.task_id.in_(union_all(*_sources(asked, dialect)))]
    # PostgreSQL sees by itself what an index holds, and of what is said twice it expects too little.
    if dialect == "sqlite" and set[str]().union(*(STATES_OF[word] for word in asked)) <= set(FAILED):
        return [is_failure(attempt)]
    return []


def is_that_of(opened: FromClause) -> ColumnElement[bool]:
    """The open attempt of that claim."""
    return and_(attempt.c.incarnation == opened.c.incarnation, attempt.c.seq == opened.c.seq)


def apart(states: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The states in groups that one index each tells of: a question of each is cheaper than one of all."""
    opened = tuple(state for state in states if state in OPEN_WORDS)
    others = tuple(state for state in states if state not in OPEN_WORDS)
    return [group for group in (opened, others) if group] or [()]


def _sources(asked: set[str], dialect: str) -> list[Select[Any]]:
    """Tasks, by all that an index tells of: what is true of them the question itself says."""
    found = []
    if asked & OPEN_WORDS:
        its = attempt.alias()
        found.append(select(its.c.task_id).where(is_open(its)))
    under_way = {state.value for state in UNDER_WAY} if _RECOVERING in asked else set()
    if waits := under_way | asked & _WAITING_WORDS:
        found.append(_undone(waits))
    if _RECOVERING in asked:
        found.append(_sent_again(dialect, "task_id"))
    return found


def _undone(states: Collection[str]) -> Select[Any]:
    its = recovery.alias()
    return select(its.c.task_id).where(is_undone(its), its.c.state.in_(sorted(states)))


def _sent_again(dialect: str, *kept: str) -> Select[Any]:
    """Recoveries whose message is on its way again: of the newest that were sent."""
    its = recovery.alias()
    of_these = is_done(its) if dialect == "mysql" else is_sent(its)
    told = [its.c[name] for name in {*kept, "state", "verdict", "followed_at"}]
    newest = select(*told).where(of_these).order_by(its.c.done_at.desc()).limit(MOST_SENT).subquery()
    return select(*(newest.c[name] for name in kept)).where(is_sent(newest))


def brought_back(dialect: str) -> Subquery:
    """Recoveries of what is recovering: `MOST_SENT` of those under way, and of those that were sent."""
    kept, its = ("task_id", "number", "scope"), recovery.alias()
    meant_to_run = or_(its.c.verdict.is_(None), its.c.verdict != VerdictKind.REVOKED.value)
    under_way = its.c.state.in_(sorted(UNDER_WAY))
    begun = select(*(its.c[name] for name in kept)).where(is_undone(its), under_way, meant_to_run)
    few = begun.limit(MOST_SENT).subquery()
    return union_all(select(few), _sent_again(dialect, *kept)).subquery()


def begun_since(since: ColumnElement[int]) -> Subquery:
    """Recoveries that were begun since: under way, or done since then."""
    undone, done = _UNDONE, _DONE
    kept = ("task_id", "number", "cause")
    return union_all(
        select(*(undone.c[name] for name in kept)).where(is_undone(undone), undone.c.created_at >= since),
        select(*(done.c[name] for name in kept)).where(
            is_done(done), done.c.done_at >= since, done.c.created_at >= since
        ),
    ).subquery()


def is_latest(table: FromClause) -> ColumnElement[bool]:
    """No later attempt of its task is on record."""
    later = _LATER.c
    return ~(
        select(later.number).where(later.task_id == table.c.task_id, later.number > table.c.number).exists()
    )
