"""What people may ask for, turned into conditions. Values only ever travel as parameters."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, case, or_, select, true

from crisper.core.states import HAVE_RECOVERIES, RecoveryState, State, VerdictKind, task_words
from crisper.core.text import key, storable
from crisper.engine.narrowing import narrowed
from crisper.errors import BadQuestion
from crisper.store import schema

LIMIT_MOST = 1000

#: A registry's times are 64-bit milliseconds; a cursor or an age beyond is nonsense.
_MOST = 2**62
_UNITS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_AGE = re.compile(r"(?:\d{1,9}[smhdw])+", re.ASCII)
_AGE_PART = re.compile(r"(\d+)([smhdw])", re.ASCII)
#: Matching takes time exponential in the stars.
_MOST_STARS = 6
_LONGEST_GLOB = 512
_LONGEST_CURSOR = 1 << 14

_VERDICTS = len(VerdictKind) + 1  # none yet is one


@dataclass(frozen=True, slots=True)
class Filters:
    """Which tasks: all of these hold. `name` may contain `*` and `?`."""

    states: tuple[str, ...] = ()
    name: str | None = None
    worker: str | None = None  # hostname, or an incarnation's id
    queue: str | None = None
    older_than_ms: int | None = None


class Place(NamedTuple):
    """Where a page ended."""

    received_at: int
    task_id: str


# -- task states -------------------------------------------------------------


_WORDS = task_words()
#: Every word that `core.states.task_state` can say.
TASK_STATES = tuple(_WORDS)


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
        wanted += narrowed(filters.states, dialect)
    if filters.name is not None:
        wanted.append(glob(attempt.name, filters.name, dialect))
    if filters.worker is not None:
        wanted.append(_by_worker(filters.worker))
    if filters.queue is not None:
        wanted.append(equals(attempt.queue, filters.queue))
    if filters.older_than_ms is not None:
        wanted.append(attempt.received_at < now - min(max(filters.older_than_ms, 0), _MOST))
    return wanted


def equals(column: ColumnElement[str], text: str) -> ColumnElement[bool]:
    return column == storable(text)


def is_task(column: ColumnElement[str], task_id: str) -> ColumnElement[bool]:
    return column == key(task_id)


def _by_worker(worker: str) -> ColumnElement[bool]:
    incarnation = schema.incarnation.c
    of_that_name = select(incarnation.id).where(equals(incarnation.hostname, worker))
    return or_(equals(schema.attempt.c.incarnation, worker), schema.attempt.c.incarnation.in_(of_that_name))


def glob(column: ColumnElement[str], pattern: str, dialect: str) -> ColumnElement[bool]:
    """`*` and `?` alone are special, and case counts, on every database."""
    pattern = re.sub(r"\*+", "*", storable(pattern))
    if len(pattern) > _LONGEST_GLOB or pattern.count("*") > _MOST_STARS:
        raise BadQuestion(f"a name's pattern has at most {_LONGEST_GLOB} characters and {_MOST_STARS} stars")
    if dialect == "sqlite":  # its LIKE ignores case
        return column.bool_op("GLOB")(pattern.replace("[", "[[]"))
    escaped = re.sub(r"([\\%_])", r"\\\1", pattern)
    return column.like(escaped.replace("*", "%").replace("?", "_"), escape="\\")


def age_ms(text: str) -> int:
    """Milliseconds of `90s`, `10m`, `2h`, `1d12h`. Raises `BadQuestion` for anything else."""
    if not _AGE.fullmatch(text):
        raise BadQuestion(
            f"{text[:40]!r} is no age: write a number with s, m, h, d or w, such as 90s, 10m, 2h or 1d12h"
        )
    return min(sum(int(number) * _UNITS[unit] for number, unit in _AGE_PART.findall(text)), _MOST)


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
        case [int(received_at), str(task_id)] if abs(received_at) < _MOST and task_id == key(task_id):
            return Place(received_at, task_id)
    raise _bad_cursor()


def event_of(cursor: str) -> int:
    """The event id that `events` gave as `next`. Raises `BadQuestion` for any other text."""
    match _read_cursor(cursor):
        case [bool()]:
            pass
        case [int(id)] if abs(id) < _MOST:
            return id
    raise _bad_cursor()


def _read_cursor(cursor: str) -> Any:
    if len(cursor) > _LONGEST_CURSOR:
        raise _bad_cursor()
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        return json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        raise _bad_cursor() from None


def _bad_cursor() -> BadQuestion:
    return BadQuestion("that is no cursor of ours: give back the word that an earlier answer had as `next`")
