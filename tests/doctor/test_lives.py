"""What the lives of workers tell."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from crisper.core.states import WorkerState
from crisper.engine.doctor.lives import LIVES, pauses


def lost(process: int, began: int) -> Any:
    return SimpleNamespace(
        id=f"{began:016x}{process:016x}", hostname=f"celery@{process}", state=WorkerState.LOST.value,
        evidence='{"how": "silence"}', started_at=began, seen_at=began + 1000, lease_ms=20_000,
    )  # fmt: skip


@pytest.mark.timeout(10)
def test_as_many_deaths_as_are_looked_at_are_looked_through_at_once() -> None:
    assert list(pauses(lost(process, process) for process in range(LIVES))) == []


def test_a_process_that_lived_again_had_paused_until_then() -> None:
    told = list(pauses([lost(7, 90_000), lost(8, 50_000), lost(7, 0)]))
    assert [(pause.hostname, pause.seconds) for pause in told] == [("celery@7", 89.0)]
