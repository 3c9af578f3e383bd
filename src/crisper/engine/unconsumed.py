"""Queues that what is brought back waits for, and that no live worker consumes."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, and_, func, select

from crisper.core.states import WorkerState
from crisper.engine.answers import plain
from crisper.engine.narrowing import brought_back, is_latest
from crisper.store.schema import attempt, incarnation

#: Queues that are told of: an app with more has made one for each of something.
MOST = 200


class Queue(NamedTuple):
    """Two brokers may each have one of the same name."""

    scope: str
    name: str


def unconsumed(connection: Connection) -> list[dict[str, Any]]:
    """By name: how many tasks are recovering in each queue that no live worker says that it consumes."""
    waits = recovering(connection)
    consumed = consumers(connection) if waits else ()
    left = Counter[str]()
    for queue, count in waits.items():
        if queue.name and queue not in consumed:
            left[queue.name] += count
    return [{"queue": name, "recovering": count} for name, count in sorted(left.items())[:MOST]]


def recovering(connection: Connection) -> dict[Queue, int]:
    """Tasks that are being brought back, by the queue of the attempt that was lost; of a bounded number."""
    rows = connection.execute(_by_queue(connection.dialect.name))
    return {Queue(str(scope), str(name)): int(count) for scope, name, count in rows}


def consumers(connection: Connection) -> Counter[Queue]:
    """How many live workers have said that they consume from each."""
    alive = select(incarnation.c.scope, incarnation.c.about).where(
        incarnation.c.state == WorkerState.ALIVE.value
    )
    rows = connection.execute(alive)
    return Counter(Queue(str(scope), name) for scope, about in rows for name in set(queues_of(about)))


def queues_of(about: str) -> Iterable[str]:
    """That a worker said it consumes when it began."""
    told = plain(about)
    queues = told.get("queues") if isinstance(told, dict) else None
    return map(str, queues) if isinstance(queues, list) else ()


@functools.cache
def _by_queue(dialect: str) -> Select[Any]:
    back = brought_back(dialect)
    its = and_(attempt.c.task_id == back.c.task_id, attempt.c.number == back.c.number)
    kinds = (back.c.scope, attempt.c.queue)
    question = select(*kinds, func.count()).select_from(back).join(attempt, its)
    return question.where(is_latest(attempt)).group_by(*kinds)
