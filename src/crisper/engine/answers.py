"""Rows of the registry as the dicts that people's questions are answered with (docs/reference/json.md)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from crisper.core.states import RecoveryState, State, VerdictKind, WorkerState, task_state
from crisper.engine.diagnosis import SILENT, WEDGED

_JSON = json.JSONDecoder(parse_constant=str)
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - it is written with a Z


def of_worker(row: Any, now: int) -> dict[str, Any]:
    about = plain(row.about)
    about = about if isinstance(about, dict) else {}
    suspect = row.state == WorkerState.ALIVE.value and row.seen_at < now - row.lease_ms / 2
    return {
        "id": row.id,
        "hostname": row.hostname,
        "host": row.host,
        "pid": row.pid,
        "state": "suspect" if suspect else row.state,
        "started_at": iso(row.started_at),
        "seen_at": iso(row.seen_at),
        "ended_at": iso(row.ended_at),
        "lease_ms": row.lease_ms,
        "open_attempts": row.open_attempts,
        "queues": about.get("queues") or [],
        "pool": about.get("pool"),
        "concurrency": about.get("concurrency"),
        "version": about.get("crisper"),
        "evidence": plain(row.evidence),
        **of_pulse(row.pulse),
    }


def pool_of(about: str | None) -> str | None:
    """The pool of a worker, by the name of Celery's module for it; None if it is not on record."""
    told = plain(about)
    pool = told.get("pool") if isinstance(told, dict) else None
    return pool if isinstance(pool, str) else None


def version_of(about: str | None) -> str:
    """Of a worker's Crisper; `unknown` if it is not on record."""
    told = plain(about)
    version = told.get("crisper") if isinstance(told, dict) else None
    return version if isinstance(version, str) else "unknown"


def of_pulse(text: str) -> dict[str, Any]:
    """What the last heartbeat told of the worker's parent."""
    pulse = plain(text)
    told = pulse if isinstance(pulse, dict) else {}
    return {
        "errors": told.get("errors") or 0,
        "refused": told.get("refused") or 0,
        "held": told.get("held") or 0,
        "journal_bytes": told.get("journal") or 0,
        "loop_age_ms": told.get("loop_age_ms"),
        "ails": ails_of(told),
    }


def ails_of(told: dict[str, Any]) -> list[dict[str, Any]]:
    """What a worker's recorder has named and still sees: wedged, silent, or an attempt that is stalled."""
    named = told.get("ails")
    return [one for one in named if isinstance(one, dict)] if isinstance(named, list) else []


def ailing(told: list[dict[str, Any]], state: str) -> str:
    """The word for people: a worker that renews its lease, and yet is wedged or silent."""
    words = {one.get("kind") for one in told}
    return next((word for word in (WEDGED, SILENT) if word in words and state == "alive"), state)


def of_published(row: Any) -> dict[str, Any]:
    return {
        "task_id": row.task_id,
        "name": row.name,
        "state": "published",
        "queue": row.queue,
        "published_at": iso(row.published_at),
        "args_preview": plain(row.args_preview),
        "kwargs_preview": plain(row.kwargs_preview),
    }


def has_begun(row: Any) -> tuple[bool, bool]:
    """Whether the attempt's body ran; else whether it may have: acknowledged early and handed to the pool,
    and nobody saw it running."""
    begun = row.started_at is not None or bool(row.counted)
    return begun, not begun and not row.acks_late and bool(row.dispatched)


def of_task(row: Any) -> dict[str, Any]:
    return {
        "task_id": row.task_id,
        "name": row.name,
        "state": task_word(row.state, row.recovery_state, row.verdict),
        "attempt": row.number,
        "worker": row.worker,
        "queue": row.queue,
        "received_at": iso(row.received_at),
        "started_at": iso(row.started_at),
        "finished_at": iso(row.finished_at),
    }


def task_word(state: str, recovery_state: str | None, verdict: str | None) -> str:
    """`core.states.task_state` of what the registry has."""
    return task_state(
        State(state),
        RecoveryState(recovery_state) if recovery_state else None,
        VerdictKind(verdict) if verdict else None,
    )


def of_story(
    attempts: Sequence[Any],
    recoveries: Iterable[Any],
    events: Iterable[Any],
    known: Mapping[tuple[str, int], dict[str, Any]],
) -> dict[str, Any]:
    """`known`: what heartbeats told of its attempts, by incarnation and seq."""
    latest = attempts[-1]
    of_number = {row.number: row for row in recoveries}
    its = of_number.get(latest.number)
    told = [of_event(row, _number(row, attempts)) for row in events]
    return {
        "task_id": latest.task_id,
        "name": latest.name,
        "state": task_word(latest.state, its.state if its else None, its.verdict if its else None),
        "args_preview": plain(latest.args_preview),
        "kwargs_preview": plain(latest.kwargs_preview),
        "attempts": [
            {**_of_attempt(row), **(known.get((row.incarnation, row.seq)) or of_vitals(None))}
            for row in attempts
        ],
        "verdicts": [_of_verdict(one) for one in told if one["kind"] == "verdict"],
        "recoveries": [
            {"attempt": row.number, "action": row.verdict, "state": row.state, "sent_at": iso(row.sent_at)}
            for row in of_number.values()
        ],
        "events": told,
    }


def of_checkpoint(row: Any | None) -> dict[str, Any] | None:
    """What people may see of a task's last checkpoint; None if it made none."""
    if row is None:
        return None
    return {"attempt": row.number, "at": iso(row.saved_at), "preview": plain(row.preview)}


def of_vitals(about: dict[str, Any] | None, at: int = 0) -> dict[str, Any]:
    """The part of an attempt's answer that its worker's heartbeats told; `null` for what they did not."""
    progress = (about or {}).get("progress")
    memory = (about or {}).get("memory")
    return {
        "progress": _progress(progress, at) if isinstance(progress, dict) else None,
        "memory_bytes": memory if isinstance(memory, int) else None,
    }


def _progress(said: dict[str, Any], at: int) -> dict[str, Any]:
    return {
        "done": said.get("done"),
        "total": said.get("total"),
        "note": said.get("note") or None,
        "at": iso(at - int(said.get("age_ms") or 0)),
    }


def _number(row: Any, attempts: Sequence[Any]) -> int | None:
    """The attempt an event is about. A loss is written under its claim's number, negated; other records
    of a worker only name the worker, which says enough if it held the task once."""
    if row.number is not None or row.incarnation is None:
        return None if row.number is None else int(row.number)
    held = [one for one in attempts if one.incarnation == row.incarnation]
    if row.kind == "lost":
        held = [one for one in held if one.seq == -(row.seq or 0)] or held
    return held[0].number if len(held) == 1 else None


def _of_attempt(row: Any) -> dict[str, Any]:
    return {
        "number": row.number,
        "state": row.state,
        "worker": row.worker,
        "pid": row.pid,
        "received_at": iso(row.received_at),
        "started_at": iso(row.started_at),
        "finished_at": iso(row.finished_at),
        "runtime": None if row.runtime_ms is None else row.runtime_ms / 1000,
        "reason": row.reason,
    }


def _of_verdict(told: dict[str, Any]) -> dict[str, Any]:
    data = told["data"] if isinstance(told["data"], dict) else {}
    return {
        "attempt": told["attempt"],
        "verdict": data.get("verdict"),
        "reason": data.get("reason"),
        "evidence": data.get("evidence") or {},
        "decided_by": told["actor"],
        "decided_at": told["at"],
    }


def of_event(row: Any, number: int | None) -> dict[str, Any]:
    return {
        "at": iso(row.at),
        "kind": row.kind,
        "attempt": number,
        "worker": row.worker,
        "actor": row.actor,
        "data": plain(row.data),
    }


# -- values ------------------------------------------------------------------


def iso(ms: int | None) -> str | None:
    """`2025-03-09T03:12:01.120Z`; None for no time, and for one that no calendar has."""
    if ms is None:
        return None
    try:
        moment = _EPOCH + timedelta(milliseconds=ms)
    except OverflowError:
        return None
    return f"{moment.isoformat(timespec='milliseconds')}Z"


def plain(text: str | None) -> Any:
    """Stored JSON as a value, or the text itself where it is none."""
    if text is None:
        return None
    try:
        return _JSON.decode(text)
    except (ValueError, RecursionError):
        return text
