"""What the registry tells: one snapshot, read only, under `Reading`'s deadlines."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, and_, case, func, literal_column, or_, select, text

from crisper.core.message import Kept, unpack
from crisper.core.model import Message
from crisper.core.states import OPEN, State, WorkerState
from crisper.engine.doctor.facts import Connections, NotKept, Pause, Registry, Worker
from crisper.engine.reading import Reading
from crisper.engine.survey import NOW
from crisper.errors import MessageDamaged
from crisper.store.schema import attempt, incarnation

DAY_MS, MINUTE_MS = 86_400_000, 60_000
#: The newest attempts that durations and publishers are told by.
NEWEST = 20_000
#: Open attempts whose messages are looked into for ETAs and chords, and how large one may be.
LOOKED_INTO, LOOKED_INTO_BYTES = 200, 65_536
#: Lives of workers that are looked at.
LIVES = 5000
#: A message id that was told by content, for want of a header (`crisper.celery.claims`).
UNNAMED = "~%"
#: The process of an incarnation is the end of its id (`crisper.celery.node.process_of`).
_PROCESS = slice(-16, None)

_OURS = 1  # the connection by which this is asked


def ask(url: str) -> Registry:
    """Raises `RegistryError` and `SettingsError`, as `Reading` does."""
    with (
        closing(Reading(url, application_name="crisper doctor")) as reading,
        reading.snapshot() as connection,
    ):
        now, offset = _clock(connection, reading.dialect)
        lives = _lives(connection, now)
        workers = tuple(_worker(life) for life in lives if life.state == WorkerState.ALIVE.value)
        recent = _recent()
        received, unnamed = _publishers(connection, recent, now)
        kept = list(_kept(connection))
        return Registry(
            database=reading.database,
            version=_version(connection, reading.dialect),
            offset=None if reading.dialect == "sqlite" else offset,
            longest=_longest(connection, recent, now),
            countdowns=_countdowns(kept),
            chord_members=frozenset(name for name, message, _ in kept if _in_chord(message)),
            received=received,
            unnamed=unnamed,
            not_kept=_not_kept(connection, recent, now),
            workers=workers,
            just_ended=frozenset(
                life.hostname for life in lives if life.ended_at and life.ended_at > now - MINUTE_MS
            ),
            pauses=tuple(_pauses(lives)),
            connections=_connections(connection, reading.dialect, len(workers)),
        )


def _clock(connection: Connection, dialect: str) -> tuple[int, float]:
    """Its milliseconds; and its offset to ours in seconds, less what the way may explain."""
    before = time.time()
    now = int(connection.execute(select(literal_column(NOW[dialect]))).scalar_one())
    after = time.time()
    ahead, behind = now / 1000 - after, before - now / 1000
    return now, ahead if ahead > 0 else -behind if behind > 0 else 0.0


def _recent() -> Any:
    columns = (
        *(attempt.c.name, attempt.c.state, attempt.c.runtime_ms, attempt.c.started_at),
        *(attempt.c.received_at, attempt.c.message_id, attempt.c.message_size, attempt.c.why_not_kept),
    )
    return select(*columns).order_by(attempt.c.received_at.desc()).limit(NEWEST).subquery()


def _longest(connection: Connection, recent: Any, now: int) -> dict[str, float]:
    running = and_(recent.c.state == State.RUNNING.value, recent.c.started_at.is_not(None))
    took = case((running, now - recent.c.started_at), else_=recent.c.runtime_ms)
    longest = func.max(took).label("longest")
    question = select(recent.c.name, longest).where(took.is_not(None)).group_by(recent.c.name)
    return {name: max(0, int(ms)) / 1000 for name, ms in connection.execute(question)}


def _publishers(connection: Connection, recent: Any, now: int) -> tuple[int, int]:
    unnamed = func.sum(case((recent.c.message_id.like(UNNAMED), 1), else_=0))
    question = select(func.count(), unnamed).where(recent.c.received_at > now - DAY_MS)
    received, without = connection.execute(question).one()
    return int(received), int(without or 0)


def _not_kept(connection: Connection, recent: Any, now: int) -> tuple[NotKept, ...]:
    """Of the last week, by what they have too much of, so that three sentences tell of thousands."""
    question = (
        select(recent.c.why_not_kept, func.count().label("count"), func.max(recent.c.message_size))
        .where(recent.c.why_not_kept.is_not(None), recent.c.received_at > now - 7 * DAY_MS)
        .group_by(recent.c.why_not_kept)
    )
    groups: dict[str, NotKept] = {}
    for reason, count, largest in connection.execute(question):
        kind = reason.partition(" > ")[2] or reason[:40]
        so_far = groups.get(kind, NotKept(0, 0, ""))
        told = reason if largest >= so_far.largest else so_far.reason
        groups[kind] = NotKept(so_far.count + count, max(largest, so_far.largest), told)
    return tuple(sorted(groups.values(), key=lambda group: -group.count)[:3])


# -- open messages -----------------------------------------------------------


def _kept(connection: Connection) -> Iterator[tuple[str, Kept, int]]:
    """Task name, message and time of receipt."""
    question = (
        select(
            *(attempt.c.name, attempt.c.body, attempt.c.envelope, attempt.c.message_size),
            *(attempt.c.why_not_kept, attempt.c.received_at),
        )
        .where(
            attempt.c.state.in_(sorted(OPEN)),
            attempt.c.incarnation != "",
            attempt.c.body.is_not(None),
            attempt.c.message_size <= LOOKED_INTO_BYTES,
        )
        .limit(LOOKED_INTO)
    )
    for row in connection.execute(question):
        try:
            message = Message(bytes(row.body), row.envelope or "{}", row.message_size, row.why_not_kept)
            yield row.name, unpack(message), row.received_at
        except MessageDamaged:
            continue


def _countdowns(kept: Iterable[tuple[str, Kept, int]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, message, received_at in kept:
        ahead = _ahead(message.headers.get("eta"), received_at / 1000)
        if ahead > 0:
            found[name] = max(found.get(name, 0.0), ahead)
    return found


def _ahead(eta: Any, received_at: float) -> float:
    try:
        at = datetime.fromisoformat(str(eta)) if eta else None
    except ValueError:
        return 0.0
    if at is None:
        return 0.0
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - received_at


def _in_chord(message: Kept) -> bool:
    """By Celery's own body, if it is JSON: nothing is ever unpickled here."""
    if message.content_type != "application/json":
        return False
    try:
        *_, embedded = json.loads(message.body)
        return bool(embedded.get("chord"))
    except (ValueError, TypeError, AttributeError):
        return False


# -- workers -----------------------------------------------------------------


def _lives(connection: Connection, now: int) -> Sequence[Any]:
    alive = incarnation.c.state == WorkerState.ALIVE.value
    question = (
        select(
            *(incarnation.c.id, incarnation.c.hostname, incarnation.c.host, incarnation.c.state),
            *(
                incarnation.c.lease_ms,
                incarnation.c.started_at,
                incarnation.c.seen_at,
                incarnation.c.ended_at,
            ),
            *(incarnation.c.evidence, incarnation.c.about),
        )
        .where(or_(alive, incarnation.c.ended_at > now - 7 * DAY_MS))
        .order_by(alive.desc(), incarnation.c.started_at.desc())
        .limit(LIVES)
    )
    return connection.execute(question).all()


def _worker(life: Any) -> Worker:
    about = _read(life.about)
    return Worker(
        hostname=life.hostname,
        host=life.host,
        crisper=_text(about.get("crisper")),
        celery=_text(about.get("celery")),
        lease=life.lease_ms / 1000,
    )


def _pauses(lives: Iterable[Any]) -> Iterator[Pause]:
    """One process has one life at a time: a next one says that it outlived the declaration by silence."""
    lives = sorted(lives, key=lambda life: life.started_at)
    for at, life in enumerate(lives):
        if life.state != WorkerState.LOST.value or _read(life.evidence).get("how") != "silence":
            continue
        again = [one for one in lives[at + 1 :] if one.id[_PROCESS] == life.id[_PROCESS]]
        if again:
            yield Pause(life.hostname, (again[0].started_at - life.seen_at) / 1000)


def _read(text: str | None) -> dict[str, Any]:
    try:
        read = json.loads(text or "{}")
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


# -- the server --------------------------------------------------------------


def _version(connection: Connection, dialect: str) -> tuple[int, ...]:
    if dialect == "postgresql":
        return (int(connection.execute(text("SHOW server_version_num")).scalar_one()) // 10_000,)
    told = "SELECT VERSION()" if dialect == "mysql" else "SELECT sqlite_version()"
    words = str(connection.execute(text(told)).scalar_one()).partition("-")[0]
    return tuple(int(part) for part in words.split(".") if part.isdigit())[:2]


def _connections(connection: Connection, dialect: str, workers: int) -> Connections | None:
    if dialect == "postgresql":
        most, used, ours = connection.execute(text(_POSTGRES_CONNECTIONS)).one()
        return Connections(int(most), int(used) - int(ours))
    if dialect == "mysql":
        most, used = (int(connection.execute(text(asked)).one()[1]) for asked in _MARIADB_CONNECTIONS)
        return Connections(most, max(0, used - 2 * workers - _OURS))
    return None


#: What it keeps for superusers is not for us; PostgreSQL 16 keeps some for others as well.
_POSTGRES_CONNECTIONS = """
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
       - coalesce(current_setting('reserved_connections', true), '0')::int,
       count(*), count(*) FILTER (WHERE application_name LIKE 'crisper%')
  FROM pg_stat_activity WHERE datname IS NOT NULL"""

#: Either name and value.
_MARIADB_CONNECTIONS = (
    "SHOW GLOBAL VARIABLES WHERE Variable_name = 'max_connections'",
    "SHOW GLOBAL STATUS WHERE Variable_name = 'Threads_connected'",
)
