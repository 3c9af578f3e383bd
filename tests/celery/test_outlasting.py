"""A task that is stopped while its body sends it again: callers are told, whatever was stored last."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, states

from crisper.celery import request as module
from crisper.celery.request import RecordedRequest


@pytest.mark.parametrize(
    ("stored", "then"),
    [
        (b'{"status": "RETRY", "result": null, "task_id": "t"}', states.REVOKED),
        (b'{"status": "REVOKED", "result": null}", "task_id": "t"}', states.REVOKED),  # two writers, one file
        (b'{"status": "SUCCESS", "result": 42, "task_id": "t"}', states.SUCCESS),
    ],
)
def test_a_retry_or_an_unreadable_result_of_what_was_stopped_is_stored_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: bytes, then: str
) -> None:
    backend = Celery(backend=f"file://{tmp_path}").backend
    backend.set(backend.get_key_for_task("t"), stored)
    troubles: list[str] = []
    monkeypatch.setattr(module, "_deliveries", SimpleNamespace(count_error=troubles.append))
    request: Any = SimpleNamespace(
        id="t", task=SimpleNamespace(backend=backend), _context=None, _crisper=SimpleNamespace(stopped="why")
    )
    RecordedRequest._crisper_outlast_retry(request)
    assert backend.get_task_meta("t", cache=False)["status"] == then
    assert not troubles
