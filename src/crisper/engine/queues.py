"""Queues as the registry knows them: who consumes, what is open, and what waits since when."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sqlalchemy import Connection, func, select

from crisper.core.states import State
from crisper.engine.answers import iso
from crisper.engine.narrowing import is_open
from crisper.engine.reading import Reading
from crisper.engine.survey import DAY_MS, NOT_CLAIMED
from crisper.engine.unconsumed import MOST, Queue, consumers, queues_of, recovering
from crisper.store.schema import attempt, incarnation, publish

#: Lives that are asked what they consumed, the last that ended first.
MOST_LIVES = 1000


def queues(reading: Reading) -> list[dict[str, Any]]:
    """By name. Raises as `Reading.snapshot` does.

    `oldest_unclaimed_at` is known where publishing is on record (`crisper_track_publish`).
    """
    with reading.snapshot() as connection:
        consumed = _by_name(consumers(connection))
        back = _by_name(recovering(connection))
        opened = _open(connection)
        unclaimed = {
            row.queue: row
            for row in connection.execute(
                select(
                    publish.c.queue, func.count().label("many"), func.min(publish.c.published_at).label("at")
                )
                .where(NOT_CLAIMED)
                .group_by(publish.c.queue)
            )
        }
        ended = _of_the_ended(connection, reading.now(connection))
    in_use = sorted({*consumed, *back, *unclaimed, *(queue for queue, _ in opened)})
    return [
        {
            "name": name,
            "workers": consumed[name],
            "claimed": opened.get((name, State.CLAIMED.value), 0),
            "running": opened.get((name, State.RUNNING.value), 0),
            "recovering": back[name],
            "unclaimed": int(unclaimed[name].many) if name in unclaimed else 0,
            "oldest_unclaimed_at": iso(unclaimed[name].at) if name in unclaimed else None,
        }
        for name in sorted([*in_use, *sorted(ended.difference(in_use))][:MOST])
    ]


def _by_name(counts: dict[Queue, int]) -> Counter[str]:
    found = Counter[str]()
    for queue, count in counts.items():
        found[queue.name] += count
    return found


def _of_the_ended(connection: Connection, now: int) -> set[str]:
    """Queues of workers that were lost or went within a day: what waits there may have nobody left."""
    ended = incarnation.c.ended_at
    question = (
        select(incarnation.c.about).where(ended > now - DAY_MS).order_by(ended.desc()).limit(MOST_LIVES)
    )
    return {queue for about in connection.execute(question).scalars() for queue in queues_of(about)}


def _open(connection: Connection) -> dict[tuple[str, str], int]:
    rows = connection.execute(
        select(attempt.c.queue, attempt.c.state, func.count())
        .where(is_open(attempt))
        .group_by(attempt.c.queue, attempt.c.state)
    )
    return {(str(queue), str(state)): int(count) for queue, state, count in rows}
