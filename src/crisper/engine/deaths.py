"""Workers that were lost, and what became of what they held."""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any

from sqlalchemy import BigInteger, Integer, Select, Text, and_, bindparam, func, or_, select, union_all

from crisper.core.states import WorkerState
from crisper.engine.answers import of_worker, task_word
from crisper.engine.narrowing import is_open
from crisper.engine.reading import Reading
from crisper.engine.survey import DAY_MS, LIFE
from crisper.store.schema import attempt, event, incarnation, recovery

#: Tasks of one death that are looked at: of a worker that held thousands, that many tell how it went.
MOST_HELD = 100

_LATER = attempt.alias()


def newest(reading: Reading, most: int) -> list[dict[str, Any]]:
    """The workers that were lost within a day, or may still have open attempts, the last death first; each as
    `Survey.workers` tells of it. Raises as `Reading.snapshot` does."""
    still_open = (
        select(func.count())
        .where(is_open(attempt), attempt.c.incarnation == incarnation.c.id)
        .correlate(incarnation)
        .scalar_subquery()
    )
    with reading.snapshot() as connection:
        now = reading.now(connection)
        recent = or_(incarnation.c.ended_at > now - DAY_MS, incarnation.c.cleared.is_(False))
        rows = connection.execute(
            select(*LIFE, still_open.label("open_attempts"))
            .where(incarnation.c.state == WorkerState.LOST.value, recent)
            .order_by(incarnation.c.ended_at.desc(), incarnation.c.id)
            .limit(most)
        ).all()
    return [of_worker(row, now) for row in rows]


def became(reading: Reading, lives: Collection[str]) -> dict[str, dict[str, int]]:
    """By life: how many of the tasks that it lost within a day stand how; of `MOST_HELD` of them, if they are
    more. Raises as `Reading.snapshot` does.

    A task that was brought back stands as its latest attempt does.
    """
    if not lives:
        return {}
    these = {f"life_{at}": life for at, life in enumerate(sorted(lives))}
    with reading.snapshot() as connection:
        since = reading.now(connection) - DAY_MS
        told = {"since": since, "most": MOST_HELD, **these}
        rows = connection.execute(_question(len(these)), told).all()
    found: dict[str, dict[str, int]] = {}
    for life, state, recovery_state, verdict, count in rows:
        words, word = found.setdefault(life, {}), task_word(state, recovery_state, verdict)
        words[word] = words.get(word, 0) + int(count)
    return found


@functools.lru_cache
def _question(lives: int) -> Select[Any]:
    """About so many lives: it takes longer to put than to answer."""
    lost = union_all(*(_lost(f"life_{at}") for at in range(lives))).subquery()
    latest = select(func.max(_LATER.c.number)).where(_LATER.c.task_id == lost.c.task_id).scalar_subquery()
    its = and_(recovery.c.task_id == attempt.c.task_id, recovery.c.number == attempt.c.number)
    kinds = (lost.c.incarnation, attempt.c.state, recovery.c.state, recovery.c.verdict)
    return (
        select(*kinds, func.count())
        .select_from(lost)
        .join(attempt, and_(attempt.c.task_id == lost.c.task_id, attempt.c.number == latest))
        .join(recovery, its, isouter=True)
        .group_by(*kinds)
    )


def _lost(life: str) -> Select[Any]:
    """Tasks that a life lost, by the events that say so: those have an index by lives."""
    its, since = bindparam(life, type_=Text), bindparam("since", type_=BigInteger)
    told = (
        select(event.c.task_id, event.c.incarnation)
        .where(event.c.incarnation == its, event.c.kind == "lost", event.c.at + 0 >= since)
        .limit(bindparam("most", type_=Integer))
        .subquery()
    )
    return select(told.c.task_id, told.c.incarnation).distinct()
