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
        longest, cut_short = _durations(connection, recent, now)
        received, unnamed, largest = _messages(connection, recent, now)
        opened = list(messages.kept(connection))
        return Registry(
            database=reading.database,
            version=server.version(connection, reading.dialect),
            offset=None if reading.dialect == "sqlite" else offset,
            longest=longest,
            cut_short=cut_short,
            countdowns=messages.countdowns(opened),
            chord_members=frozenset(name for name, message, _ in opened if messages.in_chord(message)),
            received=received,
            unnamed=unnamed,
            not_kept=_not_kept(connection, recent, now),
            largest_kept=largest,
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


def _durations(connection: Connection, recent: Any, now: int) -> tuple[dict[str, float], dict[str, float]]:
    """By name, in seconds: the longest that took or takes its time, and that was cut short."""
    running = and_(recent.c.state == State.RUNNING.value, recent.c.started_at.is_not(None))
    took = case((running, now - recent.c.started_at), else_=recent.c.runtime_ms)
    question = select(recent.c.name, func.max(took), func.max(_ran(recent))).group_by(recent.c.name)
    found = connection.execute(question).all()
    longest = {name: max(0, int(ms)) / 1000 for name, ms, _ in found if ms is not None}
    return longest, {name: max(0, int(ms)) / 1000 for name, _, ms in found if ms is not None}


def _ran(recent: Any) -> Any:
    """Until it ended, where its process told no duration. A loss ends when its worker was last seen, for it
    may be declared days later."""
    seen = (
        select(case((incarnation.c.seen_at < recent.c.finished_at, incarnation.c.seen_at)))
        .where(incarnation.c.id == recent.c.incarnation, recent.c.state == State.LOST.value)
        .scalar_subquery()
    )
    ended = and_(recent.c.finished_at.is_not(None), recent.c.started_at.is_not(None))
    ran = func.coalesce(seen, recent.c.finished_at) - recent.c.started_at
    return case((and_(recent.c.runtime_ms.is_(None), ended), ran))


def _messages(connection: Connection, recent: Any, now: int) -> tuple[int, int, int]:
    """Those of the last day, those of them that bear no id, and the bytes of the last week's largest kept."""
    of_a_day = recent.c.received_at > now - DAY_MS
    received = func.sum(case((of_a_day, 1), else_=0))
    unnamed = func.sum(case((and_(of_a_day, recent.c.message_id.like(UNNAMED)), 1), else_=0))
    kept = and_(recent.c.why_not_kept.is_(None), recent.c.received_at > now - WEEK_MS)
    question = select(received, unnamed, func.max(case((kept, recent.c.message_size))))
    told = connection.execute(question).one()
    return int(told[0] or 0), int(told[1] or 0), int(told[2] or 0)


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
