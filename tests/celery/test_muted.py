"""A fenced attempt that has ended."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from crisper.celery import request as recorded
from crisper.celery.deliveries import Deliveries
from crisper.celery.held import Held, Stage
from crisper.celery.link import Link
from crisper.celery.request import RecordedRequest
from crisper.settings import Settings


class Early:
    """A request that was acknowledged before its body began."""

    id, acknowledged = "task", True
    task = SimpleNamespace(acks_late=False)

    def _crisper_forget_delivery(self) -> None:
        """It has been acknowledged."""


def test_a_fenced_attempt_that_was_acknowledged_early_is_stopped_until_it_has_ended_and_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else its pool process, which runs others by then, stands still for a moment five times a second."""
    timers: list[Any] = []
    timer = SimpleNamespace(call_after=lambda seconds, call, args: timers.append((call, args)))
    pool = SimpleNamespace(uses_semaphore=True)
    app = SimpleNamespace(amqp=SimpleNamespace(queues={}))
    worker = SimpleNamespace(app=app, hub=None, blueprint=None, consumer=None, pool=pool, timer=timer)
    deliveries = Deliveries(worker, Link("node", dict), Settings(registry_url="sqlite:////nowhere"))
    monkeypatch.setattr(recorded, "_deliveries", deliveries)
    request: Any = Early()
    held = request._crisper = Held(1, request, "message", 0)
    request.worker_pid = 0
    held.stage, held.muted = Stage.DISPATCHED, True

    deliveries._stop_unless_ended(held)
    assert len(timers) == 1
    assert RecordedRequest._crisper_muted(cast("RecordedRequest", request))
    [(call, args)] = timers
    call(*args)
    assert len(timers) == 1
