"""The pruner: a batch a turn, a pass an hour, and no clock that jumped empties the registry."""

from __future__ import annotations

from math import inf

import pytest

from crisper.core.states import State, VerdictKind
from crisper.engine.pruner import BATCH, DAY_MS, PASS_SECONDS, RETENTION, Pruner, Retention
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
    retention = Retention.of(days, 90, 365)
    return store, Pruner(store, retention, wall=lambda: times.host / 1000), times


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


def test_what_was_lost_stays_longer_and_the_events_longer_still() -> None:
    store, pruner, times = made()
    actor = Actor(store)
    actor.loses_child(actor.runs("lost", "m"))
    [case] = store.take_cases("c", "scope-1", limit=9)
    assert store.decide(case.recovery, VerdictKind.QUARANTINE, "so", {}, by="c") is not None
    assert store.discard("lost", by="ann", reason="not needed")
    left = []
    for days, pass_ in ((31, 0), (60, 1), (275, 2)):
        times.pass_days(days)
        pruner.tick(pass_ * PASS_SECONDS)
        left.append((len(store.attempts("t0")), len(store.attempts("lost")), len(store.events())))
    tasks = [(finished, lost) for finished, lost, _ in left]
    assert tasks == [(0, 1), (0, 0), (0, 0)]
    assert left[0][2] == left[1][2] > left[2][2] == 0


@pytest.mark.parametrize(
    ("set_to", "kept_for"),
    [
        ((30, 90, 365), (30, 90, 365)),
        ((120, 90, 365), (120, 120, 365)),  # what was lost is kept no shorter
        ((0, 90, 365), (inf, inf, 365)),
        ((30, 0, 0), (30, inf, inf)),
    ],
)
def test_nought_is_for_ever_and_the_lost_are_kept_as_long_as_the_others(
    set_to: tuple[float, float, float], kept_for: tuple[float, float, float]
) -> None:
    assert Retention.of(*set_to) == kept_for
    assert all(
        (old == 0) == (days == inf)
        for old, days in zip(Retention.of(*set_to).old(BEGAN), kept_for, strict=True)
    )


def asking(store: MemoryStore, days: float) -> None:
    Actor(store, about={RETENTION: [days, 90, 365]})


def test_what_a_living_worker_keeps_for_longer_is_kept_whoever_prunes() -> None:
    store, pruner, times = made(days=30)
    asking(store, 60)
    times.pass_days(31)
    assert pruner.tick(0) == 0
    times.pass_days(30)
    assert pruner.tick(PASS_SECONDS) == 1


def test_a_worker_that_keeps_for_ever_keeps_everything() -> None:
    store, pruner, times = made(days=30)
    asking(store, 0)
    times.pass_days(4000)
    assert pruner.tick(0) == 0
    assert len(store.attempts("t0")) == 1


def test_who_knows_no_app_forgets_what_the_workers_say_and_nothing_where_none_lives() -> None:
    store, _, times = made()
    pruner = Pruner(store, None, wall=lambda: times.host / 1000)
    times.pass_days(4000)
    assert pruner.tick(0) == 0
    asking(store, 30)
    assert pruner.tick(PASS_SECONDS) == 1
