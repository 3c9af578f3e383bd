"""Queues as the registry knows them: who consumes, what is open, and what waits since when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, func, select

from crisper.core.states import State, WorkerState
from crisper.engine.answers import iso, plain
from crisper.engine.narrowing import is_open
from crisper.engine.reading import Reading
from crisper.engine.survey import NOT_CLAIMED
from crisper.store.schema import attempt, incarnation, publish

#: Queues that are told of: an app with more has made one for each of something.
MOST = 200


def queues(reading: Reading) -> list[dict[str, Any]]:
    """By name. Raises as `Reading.snapshot` does.

    `oldest_unclaimed_at` is known where publishing is on record (`crisper_track_publish`).
    """
    with reading.snapshot() as connection:
        consumers = _consumers(connection)
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
    names = sorted({*consumers, *unclaimed, *(queue for queue, _ in opened)})
    return [
        {
            "name": name,
            "workers": consumers[name],
            "claimed": opened.get((name, State.CLAIMED.value), 0),
            "running": opened.get((name, State.RUNNING.value), 0),
            "unclaimed": int(unclaimed[name].many) if name in unclaimed else 0,
            "oldest_unclaimed_at": iso(unclaimed[name].at) if name in unclaimed else None,
        }
        for name in names[:MOST]
    ]


def _open(connection: Connection) -> dict[tuple[str, str], int]:
    rows = connection.execute(
        select(attempt.c.queue, attempt.c.state, func.count())
        .where(is_open(attempt))
        .group_by(attempt.c.queue, attempt.c.state)
    )
    return {(str(queue), str(state)): int(count) for queue, state, count in rows}


def _consumers(connection: Connection) -> Counter[str]:
    """How many live workers have said that they consume from each."""
    alive = select(incarnation.c.about).where(incarnation.c.state == WorkerState.ALIVE.value)
    return Counter(queue for about in connection.execute(alive).scalars() for queue in set(_queues(about)))


def _queues(about: str) -> Iterable[str]:
    told = plain(about)
    queues = told.get("queues") if isinstance(told, dict) else None
    return map(str, queues) if isinstance(queues, list) else ()
