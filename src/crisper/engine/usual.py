"""What runs now, the oldest first, against the time that its name usually takes."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import func, or_, select

from crisper.core.states import State
from crisper.engine.filters import bounded
from crisper.engine.reading import Reading
from crisper.engine.top import runs
from crisper.store.schema import attempt

#: Usual times are of the newest so many attempts that succeeded: what a name took last year tells little.
NEWEST = 20_000
#: Of fewer attempts nothing usual is known.
FEWEST = 5


class Usual(NamedTuple):
    """Seconds: half of its attempts took no longer, and 19 of 20 took no longer."""

    median: float
    p95: float
    attempts: int


def usual(reading: Reading) -> dict[str, Usual]:
    """By name, of the newest `NEWEST` attempts that succeeded. Raises as `Reading.snapshot` does.

    Percentiles by rank: one attempt that took a day does not move them, as it would a mean.
    """
    newest = (
        select(attempt.c.name, attempt.c.runtime_ms)
        .where(attempt.c.state == State.SUCCEEDED.value, attempt.c.runtime_ms.is_not(None))
        .order_by(attempt.c.received_at.desc())
        .limit(NEWEST)
        .subquery()
    )
    ranked = select(
        newest.c.name,
        newest.c.runtime_ms,
        func.row_number().over(partition_by=newest.c.name, order_by=newest.c.runtime_ms).label("rank"),
        func.count().over(partition_by=newest.c.name).label("many"),
    ).subquery()
    rank, many = ranked.c.rank, ranked.c.many
    # The least rank that so many in a hundred do not exceed, without a fraction on any database.
    of_median = (rank * 2 >= many) & ((rank - 1) * 2 < many)
    of_p95 = (rank * 20 >= many * 19) & ((rank - 1) * 20 < many * 19)
    question = select(ranked.c.name, ranked.c.runtime_ms, of_median, of_p95, many).where(
        many >= FEWEST, or_(of_median, of_p95)
    )
    medians: dict[str, float] = {}
    p95s: dict[str, float] = {}
    counts: dict[str, int] = {}
    with reading.snapshot() as connection:
        for name, ms, is_median, is_p95, count in connection.execute(question):
            counts[name] = int(count)
            if is_median:
                medians[name] = ms / 1000
            if is_p95:
                p95s[name] = ms / 1000
    return {name: Usual(medians[name], p95s[name], count) for name, count in counts.items()}


def present(reading: Reading, known: dict[str, Usual], *, limit: int = 100) -> list[dict[str, Any]]:
    """What runs, the oldest first. `late`: it runs for longer than 19 of 20 of its name took.

    Raises as `Reading.snapshot` does.
    """
    with reading.snapshot() as connection:
        now = reading.now(connection)
        rows = runs(connection, now, bounded(limit))
    return [{**row, **_compared(row["age"], known.get(row["name"]))} for row in rows]


def _compared(age: float | None, known: Usual | None) -> dict[str, Any]:
    late = None if known is None or age is None else age > known.p95
    return {"usual": None if known is None else known._asdict(), "late": late}
