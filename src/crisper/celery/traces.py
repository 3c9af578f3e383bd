"""Losses and recoveries in the tools that follow a task elsewhere: OpenTelemetry's traces, Sentry's issues.

Whoever uses one of them has imported and configured it: nothing is imported here that is not there already,
so nobody else pays. A trace of a task whose worker died just stops; here it goes on.
"""

from __future__ import annotations

import sys
from typing import Any

from celery.utils.log import get_logger

from crisper import __version__
from crisper.core.message import unpack
from crisper.core.model import Case
from crisper.core.states import BRINGS_BACK, BY_A_PERSON, VerdictKind
from crisper.core.verdict import Verdict
from crisper.errors import MessageDamaged

logger = get_logger(__name__)

NS_IN_MS = 1_000_000


def observe(case: Case, verdict: Verdict, *, carried_out: bool) -> None:
    """A verdict was committed, and carried out or not. Raises nothing: it is only told on."""
    for tell in (_trace, _report):
        try:
            tell(case, verdict, carried_out)
        except Exception:
            logger.warning("crisper: %s could not be told of %s", tell.__name__[1:], case.attempt.task_id,
                           exc_info=True)  # fmt: skip


def _trace(case: Case, verdict: Verdict, carried_out: bool) -> None:
    """A span for the lost attempt, in its message's trace and linked to it; one for what brought it back."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return  # imported by somebody, and configured by nobody
    from opentelemetry import propagate

    context = propagate.extract(_carrier(case))
    sender = trace.get_current_span(context).get_span_context()
    links = [trace.Link(sender)] if sender.is_valid else []
    tracer, about = trace.get_tracer("crisper", __version__), _about(case, verdict)
    attempt, declared = case.attempt, case.recovery.created_at
    if not case.overdue and verdict.kind not in BY_A_PERSON:  # else it was told with the first verdict
        began = min(attempt.started_at or attempt.received_at, declared)
        lost = tracer.start_span(
            f"lost {attempt.name}", context, trace.SpanKind.CONSUMER, about, links, began * NS_IN_MS
        )
        lost.set_status(trace.StatusCode.ERROR, verdict.reason)
        lost.end(declared * NS_IN_MS)
        if lost.get_span_context().is_valid:
            links = [*links, trace.Link(lost.get_span_context())]
    if carried_out and verdict.kind in BRINGS_BACK:
        tracer.start_span(f"recover {attempt.name}", context, trace.SpanKind.PRODUCER, about, links).end()


def _about(case: Case, verdict: Verdict) -> dict[str, Any]:
    """No arguments: what people may see of them is in the registry, redacted."""
    return {
        "messaging.system": "celery",
        "messaging.message.id": case.attempt.task_id,
        "messaging.destination.name": case.attempt.queue,
        "celery.task_name": case.attempt.name,
        "crisper.attempt": case.attempt.number,
        "crisper.cause": case.recovery.cause,
        "crisper.losses": case.recovery.losses,
        "crisper.verdict": verdict.kind.value,
        "crisper.reason": verdict.reason,
    }


def _carrier(case: Case) -> dict[str, str]:
    """The headers that the message was published with: instrumentations put `traceparent` there."""
    try:
        headers = unpack(case.message).headers
    except MessageDamaged:
        return {}
    inner = headers.get("headers")
    both = {**(inner if isinstance(inner, dict) else {}), **headers}
    return {str(name).lower(): value for name, value in both.items() if isinstance(value, str)}


def _report(case: Case, verdict: Verdict, carried_out: bool) -> None:
    """One issue for each task that goes into quarantine, grouped by its name."""
    sentry = sys.modules.get("sentry_sdk")
    if sentry is None or verdict.kind is not VerdictKind.QUARANTINE or not sentry.is_initialized():
        return
    name = case.attempt.name
    sentry.capture_event(
        {
            "level": "error",
            "logger": "crisper",
            "transaction": name,
            "logentry": {"formatted": f"{name} is in quarantine: {verdict.reason}"},
            "fingerprint": ["crisper-quarantine", name],
            "tags": {"celery.task_name": name, "crisper.verdict": verdict.kind.value},
            "contexts": {"crisper": _about(case, verdict)},
        }
    )
