"""Workers over time: each host name's lives, how they ended, and when what they lost was brought back."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, func, or_, select

from crisper.core.states import BRINGS_BACK, WorkerState
from crisper.engine.answers import iso, plain
from crisper.engine.narrowing import is_done
from crisper.engine.reading import Reading
from crisper.store.schema import attempt, incarnation, recovery

#: Lives that are read, the newest first.
MOST = 500
#: Recoveries that are told of, the newest: a week may have had many more.
MOST_BROUGHT_BACK = 1_000
#: Moments at which recoveries are counted, in the time that is shown.
MOMENTS = 60


def lanes(reading: Reading, *, since_ms: int) -> dict[str, Any]:
    """Lives that reach into the last `since_ms`, by host name; lanes with a death come first.

    Raises as `Reading.snapshot` does.
    """
    with reading.snapshot() as connection:
        now = reading.now(connection)
        since = now - since_ms
        lives = connection.execute(
            select(
                *(incarnation.c.id, incarnation.c.hostname, incarnation.c.state, incarnation.c.evidence),
                *(incarnation.c.started_at, incarnation.c.seen_at, incarnation.c.ended_at),
            )
            .where(or_(incarnation.c.ended_at >= since, incarnation.c.state == WorkerState.ALIVE.value))
            .order_by(incarnation.c.started_at.desc())
            .limit(MOST + 1)
        ).all()
        brought_back = _brought_back(connection, since, max(1, since_ms // MOMENTS))
    of_host: dict[str, list[dict[str, Any]]] = {}
    for life in lives[:MOST]:
        of_host.setdefault(life.hostname, []).append(
            {
                "id": life.id,
                "state": life.state,
                "started_at": iso(life.started_at),
                "ended_at": iso(life.ended_at),
                "evidence": plain(life.evidence),
                "recovered": brought_back.get(life.id, []),
            }
        )
    lanes = [{"hostname": host, "lives": ours[::-1]} for host, ours in of_host.items()]
    lanes.sort(key=lambda lane: (not _has_a_death(lane), lane["hostname"]))
    told = sum(one["tasks"] for back in brought_back.values() for one in back)
    return {
        "since": iso(since),
        "now": iso(now),
        "lanes": lanes,
        "more": len(lives) > MOST,
        "complete": told < MOST_BROUGHT_BACK,
    }


def _has_a_death(lane: dict[str, Any]) -> bool:
    return any(life["state"] == WorkerState.LOST.value for life in lane["lives"])


def _brought_back(connection: Connection, since: int, moment: int) -> dict[str, list[dict[str, Any]]]:
    """By the life that lost them: how many tasks were brought back, in each moment."""
    newest = (
        select(recovery.c.task_id, recovery.c.number, recovery.c.done_at)
        .where(is_done(recovery), recovery.c.verdict.in_(sorted(BRINGS_BACK)), recovery.c.done_at >= since)
        .order_by(recovery.c.done_at.desc())
        .limit(MOST_BROUGHT_BACK)
        .subquery()
    )
    at = func.max(newest.c.done_at)
    rows = connection.execute(
        select(attempt.c.incarnation, at.label("at"), func.count().label("many"))
        .join(attempt, (attempt.c.task_id == newest.c.task_id) & (attempt.c.number == newest.c.number))
        .group_by(attempt.c.incarnation, newest.c.done_at - newest.c.done_at % moment)
        .order_by(at)
    ).all()
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row.incarnation, []).append({"at": iso(row.at), "tasks": int(row.many)})
    return found
