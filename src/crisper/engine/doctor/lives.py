"""What the lives of workers tell: who works now, who just ended, and who was silent and went on."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, or_, select

from crisper.core.states import WorkerState
from crisper.engine.doctor.facts import Pause, Worker
from crisper.store.schema import incarnation

WEEK_MS = 7 * 86_400_000
#: That are looked at.
LIVES = 5000
#: The process of an incarnation is the end of its id (`crisper.celery.node.process_of`).
_PROCESS = slice(-16, None)


def lives_of(connection: Connection, now: int) -> Sequence[Any]:
    alive = incarnation.c.state == WorkerState.ALIVE.value
    question = (
        select(
            *(incarnation.c.id, incarnation.c.hostname, incarnation.c.host, incarnation.c.state),
            *(
                incarnation.c.lease_ms,
                incarnation.c.started_at,
                incarnation.c.seen_at,
                incarnation.c.ended_at,
            ),
            *(incarnation.c.evidence, incarnation.c.about, incarnation.c.boot_id),
        )
        .where(or_(alive, incarnation.c.ended_at > now - WEEK_MS))
        .order_by(alive.desc(), incarnation.c.started_at.desc())
        .limit(LIVES)
    )
    return connection.execute(question).all()


def worker_of(life: Any) -> Worker:
    about = _read(life.about)
    return Worker(
        hostname=life.hostname,
        host=life.host,
        machine=life.boot_id,
        app=_text(about.get("app")),
        crisper=_text(about.get("crisper")),
        celery=_text(about.get("celery")),
        lease=life.lease_ms / 1000,
    )


def pauses(lives: Iterable[Any]) -> Iterator[Pause]:
    """One process has one life at a time: a next one says that it outlived the declaration by silence."""
    lives = sorted(lives, key=lambda life: life.started_at)
    of_process: dict[str, list[Any]] = defaultdict(list)
    for life in lives:
        of_process[life.id[_PROCESS]].append(life)
    for life in lives:
        if life.state != WorkerState.LOST.value or _read(life.evidence).get("how") != "silence":
            continue
        others = [one for one in of_process[life.id[_PROCESS]] if one.id != life.id]
        again = [one for one in others if one.started_at >= life.started_at]
        if again:
            silent = max(again[0].started_at - life.seen_at, life.lease_ms)  # it was observed for that long
            yield Pause(life.hostname, silent / 1000)


def _read(text: str | None) -> dict[str, Any]:
    try:
        read = json.loads(text or "{}")
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
