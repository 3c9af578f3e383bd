"""The registry's clock is put forward or back: what waits by it waits for as long as it would have."""

from __future__ import annotations

import pytest

from crisper.core.model import Published
from crisper.core.states import VerdictKind
from crisper.engine.clockwatch import STEP_MS, ClockWatch
from crisper.errors import RegistryUnreachable
from crisper.store.memory import MemoryStore
from tests.store.acting import KEPT, SCOPE, Actor, MemoryRegistry, Registry, claim, start

HOUR = 3_600_000


def awaited(registry: Registry, due_in_ms: int = 30_000) -> None:
    me = registry.joins()
    me.runs()
    me.is_lost()
    registry.decided("t", VerdictKind.AWAIT_REDELIVERY, due_in_ms=due_in_ms)


def test_a_mended_step_moves_what_is_due_and_no_evidence(registry: Registry) -> None:
    awaited(registry)
    before = registry.recovery("t")
    assert before.due_at is not None
    assert registry.store.mend_clock(0, -HOUR)
    after = registry.recovery("t")
    assert (after.due_at, after.created_at) == (before.due_at - HOUR, before.created_at - HOUR)
    assert after.version == before.version
    [case] = registry.take()
    assert case.overdue
    assert [event.data for event in registry.events("clock_mended")] == [{"step_ms": -HOUR}]


def test_what_nobody_has_claimed_is_looked_for_when_it_would_have_been(registry: Registry) -> None:
    message = Published("m", "t", SCOPE, "n", "q", 0, 3, KEPT, "[]", "{}")
    registry.store.publish([message], due_in_ms=30_000)
    assert registry.store.mend_clock(0, -HOUR)
    assert [one.message_id for one in registry.store.take_unclaimed(SCOPE, limit=9)] == ["m"]


def test_a_step_is_mended_once_whoever_saw_it(registry: Registry) -> None:
    awaited(registry)
    due_at = registry.recovery("t").due_at
    now, mended = registry.store.clock()
    assert mended == 0
    assert now > 0
    other = registry.another()
    assert registry.store.mend_clock(mended, HOUR)
    assert not other.mend_clock(mended, HOUR)
    assert registry.store.clock()[1] == 1
    assert registry.recovery("t").due_at == (due_at or 0) + HOUR
    assert other.mend_clock(1, -HOUR)
    assert registry.recovery("t").due_at == due_at


def test_a_verdict_on_what_was_seen_before_the_step_keeps_what_was_mended(registry: Registry) -> None:
    me = registry.joins()
    me.runs()
    me.is_lost()
    [case] = registry.take()
    registry.store.mend_clock(0, HOUR)
    decided = registry.store.decide(case.recovery, VerdictKind.RESEND, "because", {}, by="courier")
    assert decided is not None
    assert decided.created_at == registry.recovery("t").created_at == case.recovery.created_at + HOUR


def test_what_is_done_keeps_its_times(registry: Registry) -> None:
    me, other = registry.joins(), registry.joins()
    me.runs()
    me.is_lost()
    assert other.asks(other.wants(redelivered=True)).kind == "parked"
    registry.nobody_decides()
    assert other.asks(other.wants(redelivered=True)).kind == "granted"
    before = registry.recovery("t")
    registry.store.mend_clock(0, HOUR)
    assert registry.recovery("t") == before


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_the_clock_put_forward_does_not_let_an_undecided_loss_run_again(step: int) -> None:
    """A delivery must have waited itself for as long as nobody decided."""
    registry = MemoryRegistry()
    me, other = registry.joins(), registry.joins()
    me.runs()
    me.is_lost()
    registry.now += step
    young = claim(1, redelivered=True, age_ms=0)
    assert Actor.asks(other, young).kind == "parked"
    assert start(young)


class World:
    """A registry whose clock may step, and an observer whose clock does not."""

    def __init__(self) -> None:
        self.registry_ms, self.mine = 1_000_000, 50.0
        self.took = 0.0
        self.store = MemoryStore(clock=self._read)
        self.watch = ClockWatch(self.store, clock=lambda: self.mine)

    def _read(self) -> int:
        self.pass_by(self.took / 2)
        told = self.registry_ms
        self.pass_by(self.took / 2)
        return told

    def pass_by(self, seconds: float) -> None:
        self.mine += seconds
        self.registry_ms += round(seconds * 1000)


@pytest.mark.parametrize("step", [HOUR, -HOUR, 5_000, -5_000])
def test_a_step_is_seen_at_the_next_look_and_not_again(step: int) -> None:
    world = World()
    assert world.watch.tick() == 0
    world.pass_by(1)
    world.registry_ms += step
    assert abs(world.watch.tick() - step) < STEP_MS
    world.pass_by(1)
    assert world.watch.tick() == 0


def test_a_slow_answer_a_long_pause_and_drift_are_no_step() -> None:
    world = World()
    world.watch.tick()
    for took, paused, drift in [
        (4.0, 1.0, 0),
        (0.0, 7200.0, 0),
        (4.0, 1.0, 0),
        (0.0, 1.0, 400),
        (4.0, 1, -400),
    ]:
        world.took = took
        world.pass_by(paused)
        world.registry_ms += drift
        assert world.watch.tick() == 0


def test_one_that_somebody_else_mended_is_left_alone() -> None:
    world = World()
    world.watch.tick()
    world.registry_ms += HOUR
    assert world.store.mend_clock(0, HOUR)
    assert world.watch.tick() == 0


def test_a_step_that_could_not_be_mended_is_mended_at_the_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.watch.tick()
    world.registry_ms += HOUR
    with monkeypatch.context() as away:
        away.setattr(world.store, "mend_clock", unreachable)
        with pytest.raises(RegistryUnreachable):
            world.watch.tick()
    world.pass_by(1)
    assert world.watch.tick() == HOUR
    assert world.watch.tick() == 0


def unreachable(mended: int, step: int) -> bool:
    raise RegistryUnreachable("it is away")


def test_a_look_after_a_time_of_not_watching_begins_anew() -> None:
    world = World()
    world.watch.tick()
    world.watch.forget()
    world.registry_ms += HOUR
    assert world.watch.tick() == 0
