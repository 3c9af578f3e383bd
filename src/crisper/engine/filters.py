"""What people may ask for, turned into conditions. Values only ever travel as parameters."""

from __future__ import annotations

import base64
import binascii
import functools
import json
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, and_, case, func, or_, select, true

from crisper.core.states import HAVE_RECOVERIES, RecoveryState, State, VerdictKind, task_words
from crisper.core.text import key, storable
from crisper.engine.moments import MOST_MS, Moment
from crisper.engine.narrowing import FEW_AT_A_TIME, narrowed
from crisper.errors import BadQuestion
from crisper.store import schema

LIMIT_MOST = 1000
LONGEST_ARGUMENT = 200

#: A prefix of a task id shorter than this names nothing.
SHORTEST_PREFIX = 6
#: Behind what any id goes on with, whatever the database sorts by. Only an ideograph, or what is beyond the
#: basic plane, may come later, and ids are ASCII.
_LAST = "\ufffd"

#: Matching takes time exponential in the stars.
MOST_STARS = 6
LONGEST_GLOB = 512
LONGEST_CURSOR = 8192

_VERDICTS = len(VerdictKind) + 1  # none yet is one


@dataclass(frozen=True, slots=True)
class Filters:
    """Which tasks: all of these hold. `name` may contain `*` and `?`. Times are when the latest attempt was
    received."""

    states: tuple[str, ...] = ()
    name: str | None = None
    worker: str | None = None  # hostname, or an incarnation's id
    queue: str | None = None
    older_than_ms: int | None = None
    id: str | None = None  # a task's, or the beginning of it
    since: Moment | None = None
    until: Moment | None = None
    argument: str | None = None  # stands in the recorded arguments, which are redacted and shortened
    lost_by: str | None = None  # an incarnation's id: it lost an attempt, whatever came after that

    @property
    def tell_of_few(self) -> bool:
        """An index of few tasks at a time has all of these."""
        return self.lost_by is not None or bool(self.states and FEW_AT_A_TIME.issuperset(self.states))

    @property
    def needs_a_look(self) -> bool:
        """No index answers this: each task of the time that is asked for has to be looked at."""
        asked = (self.name, self.worker, self.queue, self.argument)
        return self.id is None and not self.tell_of_few and any(one is not None for one in asked)


class Place(NamedTuple):
    """Where a page ended."""

    received_at: int
    task_id: str


# -- task states -------------------------------------------------------------


_WORDS = task_words()
#: Every word that `core.states.task_state` can say.
TASK_STATES = tuple(_WORDS)


@functools.lru_cache
def in_state(word: str) -> ColumnElement[bool]:
    """`task_state(attempt, recovery, verdict) == word` as SQL, derived from that very function."""
    if word not in _WORDS:
        raise BadQuestion(f"no task is ever {word!r}; the states are {', '.join(sorted(TASK_STATES))}")
    attempt, recovery = schema.attempt.c, schema.recovery.c
    by_itself: list[State] = []
    plain: list[ColumnElement[bool]] = []
    by_recovery: dict[tuple[State, RecoveryState], list[VerdictKind | None]] = {}
    for state, its_recovery, verdict in _WORDS[word]:
        if its_recovery is not None:
            by_recovery.setdefault((state, its_recovery), []).append(verdict)
        elif state in HAVE_RECOVERIES:
            plain.append(and_(attempt.state == state.value, recovery.state.is_(None)))
        else:
            by_itself.append(state)
    lost = [
        and_(attempt.state == state.value, recovery.state == its.value, _verdict_in(verdicts))
        for (state, its), verdicts in by_recovery.items()
    ]
    rest = [*plain, *lost]
    alone = attempt.state.in_(sorted(by_itself))
    if not by_itself or not rest:
        return alone if by_itself else or_(*rest)
    # Of an OR PostgreSQL counts the state twice, expects next to nothing, and gathers all to show fifty.
    return and_(
        attempt.state.in_(sorted({state for state, *_ in _WORDS[word]})),
        case((alone, True), else_=or_(*rest)),
    )


def _verdict_in(verdicts: list[VerdictKind | None]) -> ColumnElement[bool]:
    verdict = schema.recovery.c.verdict
    if len(verdicts) == _VERDICTS:
        return true()
    named = verdict.in_([v.value for v in verdicts if v is not None])
    return or_(named, verdict.is_(None)) if None in verdicts else named


# -- words of people ---------------------------------------------------------


def conditions(filters: Filters, now: int, dialect: str) -> list[ColumnElement[bool]]:
    attempt = schema.attempt.c
    wanted: list[ColumnElement[bool]] = []
    if filters.states:
        wanted.append(or_(*(in_state(word) for word in filters.states)))
        wanted += narrowed(frozenset(filters.states), dialect)
    if filters.name is not None:
        wanted.append(glob(attempt.name, filters.name, dialect))
    if filters.worker is not None:
        wanted.append(_by_worker(filters.worker))
    if filters.queue is not None:
        wanted.append(equals(attempt.queue, filters.queue))
    if filters.lost_by is not None:
        wanted.append(attempt.task_id.in_(_lost_by(filters.lost_by)))
    if filters.older_than_ms is not None:
        wanted.append(attempt.received_at < now - min(max(filters.older_than_ms, 0), MOST_MS))
    if filters.since is not None:
        wanted.append(attempt.received_at >= filters.since.at(now))
    if filters.until is not None:
        wanted.append(attempt.received_at < filters.until.at(now))
    if filters.id is not None:
        wanted.append(begins(attempt.task_id, filters.id))
    if filters.argument is not None:
        previews = (attempt.args_preview, attempt.kwargs_preview)
        wanted.append(or_(*(contains(one, filters.argument, dialect) for one in previews)))
    return wanted


def begins(column: ColumnElement[str], prefix: str) -> ColumnElement[bool]:
    """The whole id, or what it begins with. A range first: an index answers that."""
    if len(prefix) < SHORTEST_PREFIX or key(prefix) != prefix:
        return is_task(column, prefix)
    beginning = func.substr(column, 1, len(prefix)) == prefix
    return and_(column >= prefix, column < prefix + _LAST, beginning)


def contains(column: ColumnElement[str], text: str, dialect: str) -> ColumnElement[bool]:
    """Nothing in the text is special, and case counts, on every database."""
    if len(text) > LONGEST_ARGUMENT:
        raise BadQuestion(f"a text in the arguments has at most {LONGEST_ARGUMENT} characters")
    text = storable(text)
    if dialect == "sqlite":
        return func.instr(column, text) > 0
    if dialect == "postgresql":
        return func.strpos(column, text) > 0
    return func.locate(text, column) > 0


def equals(column: ColumnElement[str], text: str) -> ColumnElement[bool]:
    return column == storable(text)


def is_task(column: ColumnElement[str], task_id: str) -> ColumnElement[bool]:
    return column == key(task_id)


def _by_worker(worker: str) -> ColumnElement[bool]:
    incarnation = schema.incarnation.c
    of_that_name = select(incarnation.id).where(equals(incarnation.hostname, worker))
    return or_(equals(schema.attempt.c.incarnation, worker), schema.attempt.c.incarnation.in_(of_that_name))


def _lost_by(life: str) -> Select[Any]:
    """By the events that say so: those have an index by lives."""
    event = schema.event.c
    return select(event.task_id).where(equals(event.incarnation, life), event.kind == "lost")


def glob(column: ColumnElement[str], pattern: str, dialect: str) -> ColumnElement[bool]:
    """`*` and `?` alone are special, and case counts, on every database."""
    given, pattern = len(pattern), re.sub(r"\*+", "*", storable(pattern))
    if given > LONGEST_GLOB or pattern.count("*") > MOST_STARS:
        raise BadQuestion(f"a name's pattern has at most {LONGEST_GLOB} characters and {MOST_STARS} stars")
    if dialect == "sqlite":  # its LIKE ignores case
        return column.bool_op("GLOB")(pattern.replace("[", "[[]"))
    escaped = re.sub(r"([\\%_])", r"\\\1", pattern)
    return column.like(escaped.replace("*", "%").replace("?", "_"), escape="\\")


def bounded(limit: int) -> int:
    if not 1 <= limit <= LIMIT_MOST:
        raise BadQuestion(f"limit {limit}: must be between 1 and {LIMIT_MOST}; use the cursor for more")
    return limit


# -- cursors -----------------------------------------------------------------


def cursor_of(*place: Any) -> str:
    """Where a page ended, as one opaque word."""
    return base64.urlsafe_b64encode(json.dumps(place, separators=(",", ":")).encode()).decode().rstrip("=")


def place_of(cursor: str) -> Place:
    """The place that `tasks` gave as `next`. Raises `BadQuestion` for any other text."""
    match _read_cursor(cursor):
        case [bool(), str()]:
            pass
        case [int(received_at), str(task_id)] if abs(received_at) < MOST_MS and task_id == key(task_id):
            return Place(received_at, task_id)
    raise _bad_cursor()


def event_of(cursor: str) -> int:
    """The event id that `events` gave as `next`. Raises `BadQuestion` for any other text."""
    match _read_cursor(cursor):
        case [bool()]:
            pass
        case [int(id)] if abs(id) < MOST_MS:
            return id
    raise _bad_cursor()


def _read_cursor(cursor: str) -> Any:
    if len(cursor) > LONGEST_CURSOR:
        raise _bad_cursor()
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        return json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        raise _bad_cursor() from None


def _bad_cursor() -> BadQuestion:
    return BadQuestion("that is no cursor of ours: give back the word that an earlier answer had as `next`")
