"""What the registry tells: one snapshot, read only, under `Reading`'s deadlines."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

from sqlalchemy import Connection, and_, case, func, select

from crisper.core.states import State, WorkerState
from crisper.engine.doctor import messages, server
from crisper.engine.doctor.facts import NotKept, Registry
from crisper.engine.doctor.lives import WEEK_MS, lives_of, pauses, worker_of
from crisper.engine.reading import Reading
from crisper.store.schema import attempt, incarnation

DAY_MS, MINUTE_MS = 86_400_000, 60_000
#: The newest attempts that durations and publishers are told by.
NEWEST = 20_000
#: A message id that was told by content, for want of a header (`crisper.celery.claims`).
UNNAMED = "~%"


def ask(url: str) -> Registry:
    """Raises `RegistryError` and `SettingsError`, as `Reading` does."""
    with (
        closing(Reading(url, application_name="crisper doctor")) as reading,
        reading.snapshot() as connection,
    ):
        now, offset = _clock(reading, connection)
        lives = lives_of(connection, now)
        workers = tuple(worker_of(life) for life in lives if life.state == WorkerState.ALIVE.value)
        recent = _recent()
        received, unnamed = _publishers(connection, recent, now)
        opened = list(messages.kept(connection))
        return Registry(
            database=reading.database,
            version=server.version(connection, reading.dialect),
            offset=None if reading.dialect == "sqlite" else offset,
            longest=_longest(connection, recent, now),
            cut_short=_cut_short(connection, recent),
            countdowns=messages.countdowns(opened),
            chord_members=frozenset(name for name, message, _ in opened if messages.in_chord(message)),
            received=received,
            unnamed=unnamed,
            not_kept=_not_kept(connection, recent, now),
            largest_kept=_largest_kept(connection, recent, now),
            workers=workers,
            just_ended=frozenset(
                life.hostname for life in lives if life.ended_at and life.ended_at > now - MINUTE_MS
            ),
            pauses=tuple(pauses(lives)),
            connections=server.connections(connection, reading.dialect, len(workers)),
        )


def _clock(reading: Reading, connection: Connection) -> tuple[int, float]:
    """Its milliseconds; and its offset to ours in seconds, less what the way may explain."""
    before = time.time()
    now = reading.now(connection)
    after = time.time()
    ahead, behind = now / 1000 - after, before - now / 1000
    return now, ahead if ahead > 0 else -behind if behind > 0 else 0.0


def _recent() -> Any:
    columns = (
        *(attempt.c.name, attempt.c.state, attempt.c.runtime_ms, attempt.c.started_at),
        *(attempt.c.finished_at, attempt.c.incarnation, attempt.c.received_at),
        *(attempt.c.message_id, attempt.c.message_size, attempt.c.why_not_kept),
    )
    return select(*columns).order_by(attempt.c.received_at.desc()).limit(NEWEST).subquery()


def _longest(connection: Connection, recent: Any, now: int) -> dict[str, float]:
    running = and_(recent.c.state == State.RUNNING.value, recent.c.started_at.is_not(None))
    took = case((running, now - recent.c.started_at), else_=recent.c.runtime_ms)
    return _most(connection, recent, took, took.is_not(None))


def _cut_short(connection: Connection, recent: Any) -> dict[str, float]:
    """Of attempts whose process told no duration. A loss ends when its worker was last seen, for it may be
    declared days later."""
    seen = (
        select(case((incarnation.c.seen_at < recent.c.finished_at, incarnation.c.seen_at)))
        .where(incarnation.c.id == recent.c.incarnation, recent.c.state == State.LOST.value)
        .scalar_subquery()
    )
    ran = func.coalesce(seen, recent.c.finished_at) - recent.c.started_at
    ended = and_(recent.c.runtime_ms.is_(None), recent.c.finished_at.is_not(None))
    return _most(connection, recent, ran, and_(ended, recent.c.started_at.is_not(None)))


def _most(connection: Connection, recent: Any, ms: Any, where: Any) -> dict[str, float]:
    """By name, in seconds."""
    question = select(recent.c.name, func.max(ms)).where(where).group_by(recent.c.name)
    return {name: max(0, int(most)) / 1000 for name, most in connection.execute(question)}


def _publishers(connection: Connection, recent: Any, now: int) -> tuple[int, int]:
    unnamed = func.sum(case((recent.c.message_id.like(UNNAMED), 1), else_=0))
    question = select(func.count(), unnamed).where(recent.c.received_at > now - DAY_MS)
    received, without = connection.execute(question).one()
    return int(received), int(without or 0)


def _not_kept(connection: Connection, recent: Any, now: int) -> tuple[NotKept, ...]:
    """Of the last week, by what they have too much of, so that three sentences tell of thousands."""
    question = (
        select(recent.c.why_not_kept, func.count().label("count"), func.max(recent.c.message_size))
        .where(recent.c.why_not_kept.is_not(None), recent.c.received_at > now - WEEK_MS)
        .group_by(recent.c.why_not_kept)
    )
    groups: dict[str, NotKept] = {}
    for reason, count, largest in connection.execute(question):
        kind = reason.partition(" > ")[2] or reason[:40]
        so_far = groups.get(kind, NotKept(0, 0, ""))
        told = reason if largest >= so_far.largest else so_far.reason
        groups[kind] = NotKept(so_far.count + count, max(largest, so_far.largest), told)
    return tuple(sorted(groups.values(), key=lambda group: -group.count)[:3])


def _largest_kept(connection: Connection, recent: Any, now: int) -> int:
    question = select(func.max(recent.c.message_size)).where(
        recent.c.why_not_kept.is_(None), recent.c.received_at > now - WEEK_MS
    )
    return int(connection.execute(question).scalar() or 0)
