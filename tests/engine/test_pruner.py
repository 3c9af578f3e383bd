"""The pruner: a batch a turn, a pass an hour, and no clock that jumped empties the registry."""

from __future__ import annotations

from crisper.core.states import State
from crisper.engine.pruner import BATCH, DAY_MS, PASS_SECONDS, Pruner
from crisper.store.memory import MemoryStore
from tests.store.acting import Actor

BEGAN = 1_000_000_000_000


class Times:
    """The registry's clock and the host's, in milliseconds."""

    def __init__(self) -> None:
        self.registry = self.host = BEGAN

    def pass_days(self, days: float) -> None:
        self.registry += int(days * DAY_MS)
        self.host += int(days * DAY_MS)


def made(count: int = 1, days: float = 30) -> tuple[MemoryStore, Pruner, Times]:
    times = Times()
    store = MemoryStore(clock=lambda: times.registry)
    actor = Actor(store)
    for n in range(count):
        actor.ends(f"t{n}", f"m{n}", State.SUCCEEDED)
    return store, Pruner(store, days, wall=lambda: times.host / 1000), times


def test_it_forgets_after_the_retention_and_not_before() -> None:
    store, pruner, times = made()
    times.pass_days(29)
    assert pruner.tick(0) == 0
    times.pass_days(2)
    assert pruner.tick(1) == 0  # its next pass is an hour away
    assert pruner.tick(PASS_SECONDS) == 1
    assert store.attempts("t0") == []


def test_a_turn_is_a_batch_and_the_pass_goes_on_with_the_next() -> None:
    _, pruner, times = made(BATCH + 3)
    times.pass_days(31)
    assert [pruner.tick(now) for now in range(4)] == [BATCH, 3, 0, 0]


def test_a_registry_or_a_host_whose_clock_was_put_forward_forgets_nothing() -> None:
    store, pruner, times = made()
    times.registry += 400 * DAY_MS
    assert pruner.tick(0) == 0
    times.registry -= 400 * DAY_MS
    times.host += 400 * DAY_MS
    assert pruner.tick(PASS_SECONDS) == 0
    assert len(store.attempts("t0")) == 1


def test_no_retention_keeps_everything() -> None:
    store, pruner, times = made(days=0)
    times.pass_days(10_000)
    assert pruner.tick(0) == 0
    assert len(store.attempts("t0")) == 1
