"""What `crisper top` shows: the present, in one snapshot. Ages are by the registry's clock, in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, and_, case, func, or_, select

from crisper.core.states import WAITS_FOR_A_PERSON, State, WorkerState
from crisper.engine.answers import ailing, iso, of_pulse, of_vitals, plain
from crisper.engine.diagnosis import STALLED
from crisper.engine.narrowing import is_latest, is_open, is_that_of, is_undone
from crisper.engine.reading import Reading
from crisper.engine.survey import HOSTNAME, LIFE, task_counts
from crisper.engine.vitals import vitals
from crisper.store.schema import attempt, incarnation, recovery

HOUR_MS = 3_600_000

#: Rows of each list that are read; nobody's screen is longer.
MOST = 500


def top(reading: Reading) -> dict[str, Any]:
    """Workers, what runs and what waits for a person. Raises as `Reading.snapshot` does."""
    with reading.snapshot() as connection:
        now = reading.now(connection)
        return {
            "registry": reading.where,
            "now": iso(now),
            "workers": _workers(connection, now),
            "open": _open(connection),
            "running": runs(connection, now),
            "tasks": task_counts(connection, now - HOUR_MS),
            "waiting": [_waits(row, now) for row in _waiting(connection)],
        }


def _workers(connection: Connection, now: int) -> list[dict[str, Any]]:
    """Those that live, and those that were lost in the last hour."""
    running = (
        select(attempt.c.incarnation, func.count().label("running"))
        .where(is_open(attempt), attempt.c.state == State.RUNNING.value)
        .group_by(attempt.c.incarnation)
        .subquery()
    )
    alive = incarnation.c.state == WorkerState.ALIVE.value
    just_lost = and_(incarnation.c.state == WorkerState.LOST.value, incarnation.c.ended_at >= now - HOUR_MS)
    question = (
        select(*LIFE, func.coalesce(running.c.running, 0).label("running"))
        .join(running, running.c.incarnation == incarnation.c.id, isouter=True)
        .where(or_(alive, just_lost))
        .order_by(case((alive, 1), else_=0), incarnation.c.seen_at, incarnation.c.id)
        .limit(MOST)
    )
    workers = [_worker(row, now) for row in connection.execute(question)]
    return sorted(workers, key=lambda worker: (_RANKS[worker["state"]], worker["hostname"]))


#: What needs a look stands first.
_RANKS = {"lost": 0, "wedged": 1, "silent": 1, "suspect": 1, "alive": 2}


def _worker(row: Any, now: int) -> dict[str, Any]:
    about = plain(row.about)
    slots = about.get("concurrency") if isinstance(about, dict) else None
    silent = max(0, now - row.seen_at)
    suspect = row.state == WorkerState.ALIVE.value and silent > row.lease_ms / 2
    return {
        "hostname": row.hostname,
        "state": "suspect" if suspect else ailing(of_pulse(row.pulse)["ails"], row.state),
        "lease_age": silent / 1000,
        "lease": row.lease_ms / 1000,
        "running": row.running,
        "slots": slots if isinstance(slots, int) else None,
        "up": max(0, now - row.started_at) / 1000,
    }


def _open(connection: Connection) -> dict[str, int]:
    rows = connection.execute(
        select(attempt.c.state, func.count()).where(is_open(attempt)).group_by(attempt.c.state)
    )
    counts = {str(state): int(count) for state, count in rows}
    return {state.value: counts.get(state.value, 0) for state in (State.CLAIMED, State.RUNNING)}


def _running(connection: Connection, most: int) -> Sequence[Any]:
    """Which they are an index may tell alone; the rest is read of these only."""
    its = attempt.alias()
    oldest = (
        select(its.c.incarnation, its.c.seq)
        .where(is_open(its), its.c.state == State.RUNNING.value)
        .order_by(its.c.started_at, its.c.incarnation, its.c.seq)
        .limit(most)
        .subquery()
    )
    question = (
        select(
            *(attempt.c.task_id, attempt.c.number, attempt.c.name, attempt.c.started_at, attempt.c.state),
            *(attempt.c.incarnation, attempt.c.seq, HOSTNAME),
        )
        .join(oldest, is_that_of(oldest))
        .join(incarnation, incarnation.c.id == attempt.c.incarnation, isouter=True)
        .where(is_open(attempt))
        .order_by(attempt.c.started_at, attempt.c.task_id)
    )
    return connection.execute(question).all()


def runs(connection: Connection, now: int, most: int = MOST) -> list[dict[str, Any]]:
    """What runs, the oldest first."""
    rows = _running(connection, most)
    known = vitals(connection, rows)
    stalled = _stalled(connection)
    return [
        {
            "task_id": row.task_id,
            "attempt": row.number,
            "name": row.name,
            "worker": row.worker,
            "age": None if row.started_at is None else max(0, now - row.started_at) / 1000,
            "stalled": (row.task_id, row.number) in stalled,
            **known.get((row.incarnation, row.seq), of_vitals(None)),
        }
        for row in rows
    ]


def _stalled(connection: Connection) -> set[tuple[Any, Any]]:
    """Attempts, as their workers' last heartbeats named them."""
    alive = incarnation.c.state == WorkerState.ALIVE.value
    pulses = connection.execute(select(incarnation.c.pulse).where(alive).limit(MOST)).scalars()
    ails = (one for pulse in pulses for one in of_pulse(pulse)["ails"])
    return {(one.get("task_id"), one.get("attempt")) for one in ails if one.get("kind") == STALLED}


def _waiting(connection: Connection) -> Sequence[Any]:
    """The oldest first."""
    question = (
        select(recovery.c.task_id, recovery.c.name, recovery.c.state, recovery.c.created_at)
        .where(is_undone(recovery), recovery.c.state.in_(sorted(WAITS_FOR_A_PERSON)), is_latest(recovery))
        .order_by(recovery.c.created_at, recovery.c.task_id)
        .limit(MOST)
    )
    return connection.execute(question).all()


def _waits(row: Any, now: int) -> dict[str, Any]:
    age = max(0, now - row.created_at) / 1000
    return {"task_id": row.task_id, "name": row.name, "state": row.state, "age": age}
