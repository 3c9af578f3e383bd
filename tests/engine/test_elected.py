"""Who is elected keeps the waits and the history, wherever it runs; nobody else does."""

from __future__ import annotations

import pytest

from crisper.core.states import State, VerdictKind
from crisper.engine.elected import Elected
from crisper.engine.pruner import DAY_MS, PASS_SECONDS, Retention
from tests.store.acting import MemoryRegistry

HOUR = 3_600_000


class Elect:
    """Over a registry with a wait of 30 s and a task that ended; its own clock does not step."""

    def __init__(self) -> None:
        self.registry, self.mine, self.said = MemoryRegistry(), 50.0, list[str]()
        me = self.registry.joins()
        me.runs()
        me.is_lost()
        self.registry.decided("t", VerdictKind.AWAIT_REDELIVERY, due_in_ms=30_000)
        self.registry.joins().ends("old", "its message", State.SUCCEEDED)
        self._elected = Elected(
            self.registry.store, Retention.of(30, 90, 365), warn=self.said.append, clock=lambda: self.mine
        )

    def turn(self, *, leads: bool) -> None:
        self._elected.tick(self.mine, leads=leads)

    def pass_by(self, seconds: float) -> None:
        self.mine += seconds
        self.registry.now += int(seconds * 1000)

    def waits_for_ms(self) -> int:
        due_at = self.registry.recovery("t").due_at
        assert due_at is not None
        return due_at - self.registry.now


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_what_waits_by_a_clock_that_stepped_waits_for_as_long_as_it_would_have(step: int) -> None:
    elect = Elect()
    elect.turn(leads=True)
    elect.registry.now += step
    elect.turn(leads=True)
    assert elect.waits_for_ms() == 30_000
    [said] = elect.said
    assert f"was put {'forward' if step > 0 else 'back'} by {HOUR} ms" in said


def test_who_is_not_elected_mends_no_step_and_begins_anew_when_it_is() -> None:
    elect = Elect()
    elect.turn(leads=True)
    elect.turn(leads=False)
    elect.registry.now += HOUR
    elect.turn(leads=True)
    assert elect.waits_for_ms() == 30_000 - HOUR
    assert elect.said == []


def test_only_who_is_elected_forgets_what_is_old() -> None:
    elect = Elect()
    elect.pass_by(31 * DAY_MS / 1000)
    elect.turn(leads=False)
    assert len(elect.registry.store.attempts("old")) == 1
    elect.pass_by(PASS_SECONDS)
    elect.turn(leads=True)
    assert elect.registry.store.attempts("old") == []
