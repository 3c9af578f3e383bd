"""The result backend: what it holds of a lost attempt, and telling callers that one is lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery import Celery, states
from celery.app.task import Context

from crisper.core.message import Kept
from crisper.core.model import Case
from crisper.errors import CrisperError, TaskLost

_FINAL = (states.SUCCESS, states.FAILURE)


class ChordTaken(CrisperError):
    """Another process is about to send the body of a chord, or died so: look again soon."""


def stored_state(app: Celery, case: Case, kept: Any) -> str | None:
    """A final state that the backend holds for the task, or None. Never read where none is kept."""
    ignored = isinstance(kept, Kept) and kept.headers.get("ignore_result")
    backend = _backend(app, case.attempt.name)
    if ignored or _keeps_nothing(backend):
        return None
    # Uncached, and one try: the answer is evidence, not something to wait for.
    state = str(backend._get_task_meta_for(case.attempt.task_id).get("status"))
    return state if state in _FINAL else None


def stored_states(app: Celery, cases: Sequence[tuple[Case, Any]]) -> dict[str, str | None]:
    """`stored_state` of many, in one call for each backend; of those whose backend can tell that."""
    asked: dict[int, tuple[Any, list[str]]] = {}
    for case, kept in cases:
        backend = _backend(app, case.attempt.name)
        ignored = isinstance(kept, Kept) and kept.headers.get("ignore_result")
        if _is_redis(backend) and not ignored:
            asked.setdefault(id(backend), (backend, []))[1].append(case.attempt.task_id)
    return {id: state for backend, ids in asked.values() for id, state in _final(backend, ids).items()}


def _final(backend: Any, ids: list[str]) -> dict[str, str | None]:
    metas = backend.mget([backend.get_key_for_task(id) for id in ids])
    stored = {
        id: str(backend.decode_result(meta)["status"]) for id, meta in zip(ids, metas, strict=True) if meta
    }
    return {id: stored.get(id) if stored.get(id) in _FINAL else None for id in ids}


def _keeps_nothing(backend: Any) -> bool:
    """No backend, or rpc://, whose results live in the caller's own queue: asking would eat them."""
    kind = type(backend).__name__
    return kind in ("DisabledBackend", "RPCBackend")


def _backend(app: Celery, name: str) -> Any:
    task = app.tasks.get(name)
    return task.backend if task is not None else app.backend


def complete_chord(app: Celery, case: Case, kept: Any) -> None:
    """Count a lost attempt, whose result is stored, in its chord: Celery does so after storing it, and
    its process may have been killed in between, or before it sent the body that this was the last count
    for. Doing it twice changes nothing.

    Only for Redis, which knows whom it has counted; other backends count calls, or have a task of Celery's
    that looks at the results. Raises `ChordTaken` while the chord's body is in the hands of another
    process: of one that sends it now, or of the killed one, whose claim on it Celery lets expire
    (celery/backends/redis.py, 5.7: within 21 s by default).
    """
    backend = _backend(app, case.attempt.name)
    if not isinstance(kept, Kept) or not _is_redis(backend):
        return
    context = _context(app, case, kept)
    if not context.chord or not context.group:
        return
    if not _is_counted(backend, context) or (_claims(backend) and _claim(backend, context) is None):
        meta = backend._get_task_meta_for(case.attempt.task_id)
        backend.on_chord_part_return(context, meta["status"], meta["result"])
    size = backend.client.get(backend.get_key_for_group(context.group, ".s"))
    if size is not None and _claim(backend, context) not in (None, b"done", "done"):
        raise ChordTaken(
            "another process has claimed to send the body of its chord, and may have been killed"
        )


def _claims(backend: Any) -> bool:
    """Whether who sends a chord's body claims that first, so that whoever counts a member again, once the
    claim of a killed process has expired, sends it (Celery 5.7)."""
    return hasattr(backend, "_chord_claim_extend_script")


def _claim(backend: Any, context: Context) -> Any:
    return backend.client.get(backend.get_key_for_group(context.group, ".c"))


def _is_redis(backend: Any) -> bool:
    return any(cls.__module__ == "celery.backends.redis" for cls in type(backend).__mro__)


def _is_counted(backend: Any, context: Context) -> bool:
    """By the members that Redis keeps until the chord is complete (celery/backends/redis.py, 5.5 to 5.7)."""
    key = backend.get_key_for_group(context.group, ".j")
    whole = backend.client.zrange if backend._chord_zset else backend.client.lrange
    return any(backend.decode(one)[1] == context.id for one in whole(key, 0, -1))


def store_lost(app: Celery, case: Case, kept: Any, reason: str) -> None:
    """Store `TaskLost`, and run errbacks and the chord's error path by Celery's own code."""
    attempt = case.attempt
    backend = _backend(app, attempt.name)
    error = TaskLost(
        f"attempt {attempt.number} of {attempt.name} was lost and is not run again: {reason}."
        f" Its message is kept: crisper recover {attempt.task_id}"
    )
    context = _context(app, case, kept)
    task = app.tasks.get(attempt.name)
    ignored = context.ignore_result or (task is not None and task.ignore_result)
    backend.mark_as_failure(
        attempt.task_id, error, request=context, store_result=not ignored or _stores_errors(task)
    )


def store_revoked(app: Celery, case: Case, kept: Any, reason: str) -> None:
    """Store REVOKED, and run the chord's error path by Celery's own code, unless the body had ended."""
    attempt = case.attempt
    if attempt.ran and not case.finished_before and stored_state(app, case, kept):
        return
    context = _context(app, case, kept)
    task = app.tasks.get(attempt.name)
    ignored = context.ignore_result or (task is not None and task.ignore_result)
    _backend(app, attempt.name).mark_as_revoked(
        attempt.task_id, reason, request=context, store_result=not ignored or _stores_errors(task)
    )


def _stores_errors(task: Any) -> bool:
    return task is None or bool(task.store_errors_even_if_ignored)


def _context(app: Celery, case: Case, kept: Any) -> Context:
    """The request as the backend wants it; callbacks live in the body, which is decoded only
    in a content type that the app itself accepts from its broker."""
    if not isinstance(kept, Kept):
        return Context(id=case.attempt.task_id, task=case.attempt.name)
    embed = _embed(app, kept)
    return Context(
        {
            **kept.headers,
            "correlation_id": kept.properties.get("correlation_id"),
            "reply_to": kept.properties.get("reply_to"),
            "delivery_info": {"exchange": kept.exchange, "routing_key": kept.routing_key},
            **embed,
        }
    )


def _embed(app: Celery, kept: Kept) -> dict[str, Any]:
    from kombu.serialization import loads, prepare_accept_content

    accept = prepare_accept_content(app.conf.accept_content)
    body = loads(kept.body, kept.content_type, kept.content_encoding, accept=accept)
    embed: dict[str, Any] = body[2] if isinstance(body, (list, tuple)) and len(body) == 3 else {}
    return embed or {}
