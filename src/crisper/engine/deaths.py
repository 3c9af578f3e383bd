"""What became of what lost workers held."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import and_, func, select

from crisper.core.states import State
from crisper.engine.answers import task_word
from crisper.engine.narrowing import begun_since
from crisper.engine.reading import Reading
from crisper.engine.survey import DAY_MS
from crisper.store.schema import attempt, recovery


def became(reading: Reading, lives: Collection[str]) -> dict[str, dict[str, int]]:
    """By life: how many of the tasks that it lost within a day stand how. Raises as `Reading.snapshot` does.

    A task that was brought back stands as its latest attempt does.
    """
    now_, its, later = attempt.alias(), recovery.alias(), attempt.alias()
    with reading.snapshot() as connection:
        lost = begun_since(reading.now(connection) - DAY_MS)
        latest = select(func.max(later.c.number)).where(later.c.task_id == lost.c.task_id).scalar_subquery()
        rows = connection.execute(
            select(attempt.c.incarnation, now_.c.state, its.c.state, its.c.verdict, func.count())
            .select_from(lost)
            .join(attempt, _same(attempt, lost))
            .join(now_, and_(now_.c.task_id == lost.c.task_id, now_.c.number == latest))
            .join(its, _same(its, now_), isouter=True)
            .where(attempt.c.state == State.LOST.value, attempt.c.incarnation.in_(sorted(lives)))
            .group_by(attempt.c.incarnation, now_.c.state, its.c.state, its.c.verdict)
        ).all()
    found: dict[str, dict[str, int]] = {}
    for life, state, recovery_state, verdict, count in rows:
        words, word = found.setdefault(life, {}), task_word(state, recovery_state, verdict)
        words[word] = words.get(word, 0) + int(count)
    return found


def _same(one: Any, other: Any) -> Any:
    return and_(one.c.task_id == other.c.task_id, one.c.number == other.c.number)
