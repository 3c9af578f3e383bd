"""The questions people ask of the registry. Answers are plain dicts (docs/reference/json.md).

Nothing is decided by these answers: they show times, and times are only for people.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    case,
    func,
    or_,
    select,
    tuple_,
)

from crisper.core.model import Message
from crisper.core.states import (
    BRINGS_BACK,
    UNDER_WAY,
    WAITS_FOR_A_PERSON,
    RecoveryState,
    State,
    WorkerState,
)
from crisper.core.text import storable
from crisper.engine.ages import by_their_age
from crisper.engine.answers import (
    has_begun,
    iso,
    of_checkpoint,
    of_published,
    of_pulse,
    of_story,
    of_task,
    of_worker,
    pool_of,
    version_of,
)
from crisper.engine.diagnosis import SILENT, STALLED, WEDGED
from crisper.engine.filters import (
    SHORTEST_PREFIX,
    Filters,
    begins,
    bounded,
    conditions,
    cursor_of,
    event_of,
    is_task,
    place_of,
)
from crisper.engine.looking import floor_of
from crisper.engine.narrowing import (
    begun_since,
    is_done,
    is_latest,
    is_open,
    is_undone,
)
from crisper.engine.reading import HANGS_SECONDS, Reading
from crisper.engine.trail import Wanted, all_events, audited
from crisper.engine.unconsumed import unconsumed
from crisper.engine.vitals import vitals
from crisper.store.schema import attempt, checkpoint, event, incarnation, leader, publish, recovery, registry

DAY_MS = 86_400_000

#: One task's story is cut to its newest so many attempts and events.
STORY_MOST = 1000

_LATEST_RECOVERY = and_(recovery.c.task_id == attempt.c.task_id, recovery.c.number == attempt.c.number)
#: What `of_worker` tells of.
LIFE = tuple(
    incarnation.c[name]
    for name in (
        *("id", "hostname", "host", "pid", "state", "lease_ms", "started_at", "seen_at", "ended_at"),
        *("evidence", "about", "pulse"),
    )
)
HOSTNAME = func.coalesce(incarnation.c.hostname, attempt.c.incarnation).label("worker")
_NAMED = incarnation.alias()
#: The same of the few rows that are shown, where many are looked at: looked up once they are chosen.
_WORKER = func.coalesce(
    select(_NAMED.c.hostname)
    .where(_NAMED.c.id == attempt.c.incarnation)
    .correlate(attempt)
    .scalar_subquery(),
    attempt.c.incarnation,
).label("worker")


NOT_CLAIMED = ~(
    select(attempt.c.number)
    .where(
        attempt.c.task_id == publish.c.task_id,
        attempt.c.message_id == publish.c.message_id,
        attempt.c.incarnation != "",
    )
    .exists()
    .correlate(publish)
)


class Survey:
    """Read-only, from any thread; every question is one snapshot of the registry.

    All of them raise `RegistryUnreachable`, `SchemaMissing`, `SchemaOutdated` or `SchemaTooNew`.
    """

    def __init__(
        self, url: str, *, application_name: str = "crisper survey", hangs_after: float = HANGS_SECONDS
    ) -> None:
        self.reading = Reading(url, application_name=application_name, hangs_after=hangs_after)

    def close(self) -> None:
        self.reading.close()

    def status(self) -> dict[str, Any]:
        """One screen: counts, and who sweeps."""
        with self.reading.snapshot() as connection:
            now = self.reading.now(connection)
            return {
                "registry": self._registry(connection, now),
                "workers": _worker_counts(connection, now),
                "messages": {"unclaimed": _unclaimed(connection), "unconsumed": unconsumed(connection)},
                "attempts": _open_counts(connection),
                "tasks": _of_a_day(task_counts(connection, now - DAY_MS)),
                "sweeper": _sweeper(connection),
            }

    def workers(self, *, everything: bool = False, limit: int = 1000) -> dict[str, Any]:
        """Incarnations, the living first; those that ended over a day ago only if asked for `everything`."""
        with self.reading.snapshot() as connection:
            now = self.reading.now(connection)
            runs = case((attempt.c.state == State.RUNNING.value, 1), else_=0)
            held = (
                select(attempt.c.incarnation, func.count().label("open"), func.sum(runs).label("running"))
                .where(is_open(attempt))
                .group_by(attempt.c.incarnation)
                .subquery()
            )
            alive = incarnation.c.state == WorkerState.ALIVE.value
            elected = and_(leader.c.name == "sweeper", leader.c.holder == incarnation.c.id)
            question = (
                select(
                    *LIFE,
                    func.coalesce(held.c.open, 0).label("open_attempts"),
                    func.coalesce(held.c.running, 0).label("running"),
                    and_(alive, leader.c.holder.is_not(None)).label("leads"),
                )
                .join(held, held.c.incarnation == incarnation.c.id, isouter=True)
                .join(leader, elected, isouter=True)
                .order_by(alive.desc(), incarnation.c.started_at.desc(), incarnation.c.id)
                .limit(bounded(limit))
            )
            if not everything:
                recent = incarnation.c.ended_at > now - DAY_MS
                question = question.where(or_(alive, recent, incarnation.c.cleared.is_(False)))
            return {
                "workers": [
                    {**of_worker(row, now), "running": int(row.running), "leads": bool(row.leads)}
                    for row in connection.execute(question)
                ]
            }

    def living(self) -> set[str]:
        """Hostnames with a live incarnation, suspects included."""
        alive = incarnation.c.state == WorkerState.ALIVE.value
        with self.reading.snapshot() as connection:
            return set(connection.execute(select(incarnation.c.hostname).where(alive)).scalars())

    def tasks(
        self, filters: Filters | None = None, *, limit: int = 50, cursor: str | None = None
    ) -> dict[str, Any]:
        """Tasks by their latest attempt, the newest first; `next` continues where this page ended.

        What no index answers is asked of so many attempts only: `looked_back_to` says until when, if there
        are older ones, and `next` goes on from there.
        Raises `BadQuestion` for a state, limit or cursor that makes no sense.
        """
        filters, after = filters or Filters(), None if cursor is None else place_of(cursor)
        with self.reading.snapshot() as connection:
            now = self.reading.now(connection)
            wanted = conditions(filters, now, self.reading.dialect)
            if after is not None:
                wanted.append(tuple_(attempt.c.received_at, attempt.c.task_id) < tuple_(*after))
            floor = floor_of(connection, filters, now, after) if filters.needs_a_look else None
            if floor is not None:
                wanted.append(attempt.c.received_at >= floor)
            question = latest_attempts().where(*wanted)
            before = None if after is None else after.received_at
            rows = by_their_age(
                connection, question, filters, bounded(limit) + 1, oldest=False, before=before
            )
        if len(rows) > limit:
            floor, rows = None, rows[:limit]
            following: str | None = cursor_of(rows[-1].received_at, rows[-1].task_id)
        else:
            following = None if floor is None else cursor_of(floor, "")
        return {"tasks": [of_task(row) for row in rows], "next": following, "looked_back_to": iso(floor)}

    def task(self, task_id: str) -> dict[str, Any] | None:
        """All that is on record of one task; None if nothing is."""
        with self.reading.snapshot() as connection:
            attempts = _attempts(connection, task_id)
            if not attempts:
                return None
            recoveries = connection.execute(
                select(recovery).where(is_task(recovery.c.task_id, task_id)).order_by(recovery.c.number)
            ).all()
            events = connection.execute(
                all_events()
                .where(is_task(event.c.task_id, task_id))
                .order_by(event.c.id.desc())
                .limit(STORY_MOST)
            ).all()[::-1]
            known = vitals(connection, attempts)
            kept = connection.execute(
                select(checkpoint).where(is_task(checkpoint.c.task_id, task_id)).limit(1)
            ).first()
        return {**of_story(attempts, recoveries, events, known), "checkpoint": of_checkpoint(kept)}

    def published(self, task_id: str) -> dict[str, Any] | None:
        """A task that was published and has no attempt yet; None if nothing is on record of it."""
        question = select(publish).where(is_task(publish.c.task_id, task_id)).limit(1)
        with self.reading.snapshot() as connection:
            row = connection.execute(question).first()
        return None if row is None else of_published(row)

    def standing(self, task_id: str) -> dict[str, Any] | None:
        """What decides whether a person may recover, discard or stop a task; None if it is not on record."""
        question = (
            latest_attempts()
            .add_columns(
                attempt.c.why_not_kept,
                attempt.c.body.is_not(None).label("kept"),
                recovery.c.reason.label("recovery_reason"),
                incarnation.c.state.label("worker_state"),
                incarnation.c.about,
                *(attempt.c.acks_late, attempt.c.dispatched, attempt.c.counted),
            )
            .join(incarnation, incarnation.c.id == attempt.c.incarnation, isouter=True)
            .where(is_task(attempt.c.task_id, task_id))
        )
        with self.reading.snapshot() as connection:
            row = connection.execute(question).first()
        if row is None:
            return None
        begun, may_have_begun = has_begun(row)
        return {
            **of_task(row),
            "attempt_state": row.state,
            "begun": begun,
            "may_have_begun": may_have_begun,
            "recovery": row.recovery_state,
            "verdict": row.verdict,
            "reason": row.recovery_reason,
            "kept": bool(row.kept),
            "why_not_kept": row.why_not_kept,
            "worker_state": row.worker_state,
            "pool": pool_of(row.about),
        }

    def message(self, task_id: str) -> Message | None:
        """The kept message of a task's latest attempt; None if the task is not on record."""
        question = (
            select(attempt.c.body, attempt.c.envelope, attempt.c.message_size, attempt.c.why_not_kept)
            .where(is_task(attempt.c.task_id, task_id))
            .order_by(attempt.c.number.desc())
            .limit(1)
        )
        with self.reading.snapshot() as connection:
            row = connection.execute(question).first()
        return (
            None
            if row is None
            else Message(row.body, row.envelope or "{}", row.message_size, row.why_not_kept)
        )

    def ids_like(self, prefix: str, *, limit: int = 5) -> list[str]:
        """Task ids that begin with `prefix`, which has at least `SHORTEST_PREFIX` characters."""
        if len(storable(prefix)) < SHORTEST_PREFIX:
            return []
        found = begins(attempt.c.task_id, prefix)
        question = select(attempt.c.task_id).where(found).distinct().limit(bounded(limit))
        with self.reading.snapshot() as connection:
            return sorted(connection.execute(question).scalars())

    def events(
        self,
        *,
        task_id: str | None = None,
        kinds: Iterable[str] = (),
        by: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> dict[str, Any]:
        """Events in the order in which they were written; `next` asks for those after the last of these."""
        wanted = Wanted(task_id, tuple(kinds), by).conditions(0, self.reading.dialect)
        if after is not None:
            wanted.append(event.c.id > event_of(after))
        question = all_events().where(*wanted).order_by(event.c.id).limit(bounded(limit))
        with self.reading.snapshot() as connection:
            rows = connection.execute(question).all()
        return {
            "events": [audited(row) for row in rows],
            "next": cursor_of(rows[-1].id) if rows else after,
        }

    def newest_events(
        self,
        *,
        task_id: str | None = None,
        kinds: Iterable[str] = (),
        by: str | None = None,
        since_ms: int | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> dict[str, Any]:
        """The newest events, in the order in which they were written; `more` if older ones were left out.

        `before`: only those that were written before the one of this cursor.
        """
        with self.reading.snapshot() as connection:
            asked = Wanted(task_id, tuple(kinds), by, since_ms)
            wanted = asked.conditions(self.reading.now(connection), self.reading.dialect)
            if before is not None:
                wanted.append(event.c.id < event_of(before))
            question = all_events().where(*wanted).order_by(event.c.id.desc()).limit(bounded(limit) + 1)
            rows = connection.execute(question).all()
        return {"events": [audited(row) for row in rows[limit - 1 :: -1]], "more": len(rows) > limit}

    # -- parts ----------------------------------------------------------------

    def _registry(self, connection: Connection, now: int) -> dict[str, Any]:
        known = {row.key: row.value for row in connection.execute(select(registry))}
        return {
            "id": known.get("id"),
            "url": self.reading.where,
            "database": self.reading.database,
            "schema": self.reading.schema,
            "now": iso(now),
        }


# -- status ------------------------------------------------------------------


def _worker_counts(connection: Connection, now: int) -> dict[str, Any]:
    counts = dict(_counted(connection, incarnation.c.state))
    told = (incarnation.c.pulse, incarnation.c.about, incarnation.c.seen_at, incarnation.c.lease_ms)
    alive = incarnation.c.state == WorkerState.ALIVE.value
    living = connection.execute(select(*told).where(alive)).all()
    suspect = sum(one.seen_at < now - one.lease_ms / 2 for one in living)
    pulses = [of_pulse(one.pulse) for one in living]
    return {
        "alive": counts.get(WorkerState.ALIVE.value, 0) - suspect,
        "suspect": suspect,
        "lost": counts.get(WorkerState.LOST.value, 0),
        "gone": counts.get(WorkerState.GONE.value, 0),
        **{kind: _ailing(pulses, kind) for kind in (WEDGED, SILENT)},
        "stalled": sum(ails.get("kind") == STALLED for pulse in pulses for ails in pulse["ails"]),
        "errors": sum(one["errors"] for one in pulses),
        "journal_bytes": sum(one["journal_bytes"] for one in pulses),
        "versions": dict(Counter(version_of(one.about) for one in living)),
    }


def _ailing(pulses: Sequence[dict[str, Any]], kind: str) -> int:
    return sum(any(ails.get("kind") == kind for ails in pulse["ails"]) for pulse in pulses)


def _unclaimed(connection: Connection) -> int:
    """Messages on record from when they were published, and not claimed yet."""
    return int(connection.execute(select(func.count()).select_from(publish).where(NOT_CLAIMED)).scalar_one())


def _open_counts(connection: Connection) -> dict[str, int]:
    counts = _counted(connection, attempt.c.state, is_open(attempt))
    return {state.value: counts.get(state.value, 0) for state in (State.CLAIMED, State.RUNNING)}


def _of_a_day(counts: dict[str, int]) -> dict[str, int]:
    names = {"lost": "lost_24h", "recovered": "recovered_24h"}
    return {names.get(name, name): count for name, count in counts.items()}


def task_counts(connection: Connection, since: int) -> dict[str, int]:
    """Tasks that wait for a person now, and those that were lost and brought back since."""
    waiting = {str(word): int(count) for word, count in connection.execute(_WAITING)}
    return {
        "quarantined": waiting.get(RecoveryState.QUARANTINED.value, 0),
        "held": waiting.get(RecoveryState.HELD.value, 0),
        "lost": connection.execute(_LOST, {"since": since}).scalar_one(),
        "recovered": connection.execute(_BROUGHT_BACK, {"since": since}).scalar_one(),
    }


# To put these together takes as long as to answer them.
_WAITING = (
    select(recovery.c.state, func.count())
    .where(is_undone(recovery), recovery.c.state.in_(sorted(WAITS_FOR_A_PERSON)), is_latest(recovery))
    .group_by(recovery.c.state)
)
_SINCE = bindparam("since", type_=BigInteger)
_BEGUN, _BEFORE = begun_since(_SINCE), recovery.alias()


def _brings_back(recoveries: Any) -> ColumnElement[bool]:
    verdict = recoveries.c.verdict.in_(sorted(BRINGS_BACK))
    return and_(is_done(recoveries), verdict, recoveries.c.done_at >= _SINCE)


def _first_of_its_task(table: Any, counted: ColumnElement[bool]) -> ColumnElement[bool]:
    """No earlier recovery of its task is `counted` too: each task once, without sorting them all."""
    same = and_(_BEFORE.c.task_id == table.c.task_id, _BEFORE.c.number < table.c.number)
    return or_(table.c.number == 1, ~select(_BEFORE.c.number).where(same, counted).exists())


_LOST = select(func.count()).where(
    _BEGUN.c.cause != "stop",
    _first_of_its_task(_BEGUN, and_(_BEFORE.c.cause != "stop", _BEFORE.c.created_at >= _SINCE)),
)
_BROUGHT_BACK = select(func.count()).where(
    _brings_back(recovery), _first_of_its_task(recovery, _brings_back(_BEFORE))
)


def _sweeper(connection: Connection) -> dict[str, Any]:
    """Who leads, and what is left to do."""
    question = (
        select(leader.c.holder, leader.c.since, incarnation.c.hostname, incarnation.c.state)
        .join(incarnation, incarnation.c.id == leader.c.holder, isouter=True)
        .where(leader.c.name == "sweeper")
    )
    row = connection.execute(question).first()
    under_way = select(func.count()).where(is_undone(recovery), recovery.c.state.in_(sorted(UNDER_WAY)))
    uncleared = select(func.count()).where(
        incarnation.c.state != WorkerState.ALIVE.value, incarnation.c.cleared.is_(False)
    )
    return {
        "leader": row.holder if row else None,
        "worker": row.hostname if row else None,
        "state": row.state if row else None,
        "since": iso(row.since) if row else None,
        "workers_to_clear": connection.execute(uncleared).scalar_one(),
        "recoveries_under_way": connection.execute(under_way).scalar_one(),
    }


def _counted(
    connection: Connection, column: ColumnElement[str], *wanted: ColumnElement[bool]
) -> Mapping[str, int]:
    rows = connection.execute(select(column, func.count()).where(*wanted).group_by(column))
    return {str(word): int(count) for word, count in rows}


# -- tasks -------------------------------------------------------------------


@functools.cache
def latest_attempts() -> Select[Any]:
    """The latest attempt of each task, with its recovery."""
    return (
        select(
            *(
                attempt.c.task_id,
                attempt.c.name,
                attempt.c.state,
                attempt.c.number,
                attempt.c.queue,
                _WORKER,
            ),
            *(attempt.c.received_at, attempt.c.started_at, attempt.c.finished_at),
            recovery.c.state.label("recovery_state"),
            recovery.c.verdict,
        )
        .join(recovery, _LATEST_RECOVERY, isouter=True)
        .where(is_latest(attempt))
    )


# -- one task ----------------------------------------------------------------


def _attempts(connection: Connection, task_id: str) -> Sequence[Any]:
    question = (
        select(
            *(
                attempt.c.task_id,
                attempt.c.number,
                attempt.c.name,
                attempt.c.state,
                attempt.c.pid,
                attempt.c.reason,
            ),
            *(attempt.c.received_at, attempt.c.started_at, attempt.c.finished_at, attempt.c.runtime_ms),
            *(
                attempt.c.incarnation,
                attempt.c.seq,
                attempt.c.args_preview,
                attempt.c.kwargs_preview,
                HOSTNAME,
            ),
        )
        .join(incarnation, incarnation.c.id == attempt.c.incarnation, isouter=True)
        .where(is_task(attempt.c.task_id, task_id))
        .order_by(attempt.c.number.desc())
        .limit(STORY_MOST)
    )
    return connection.execute(question).all()[::-1]
