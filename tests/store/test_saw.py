"""A person's decision repeats what they saw: a page that is out of date decides nothing."""

from __future__ import annotations

import pytest

from crisper.core.states import Saw, VerdictKind
from tests.store.acting import KEPT, SCOPE, Registry

HELD, GONE_BY = Saw(1, "held"), [Saw(1, "recovering"), Saw(2, "held"), Saw(0, "held"), Saw(1, "lost")]


@pytest.fixture
def held(registry: Registry) -> Registry:
    """A task `t` whose first attempt was lost, and which waits for a person."""
    me, other = registry.joins(), registry.joins()
    me.runs(message=KEPT)
    me.is_lost()
    [case] = registry.store.take_cases(other.id, SCOPE, limit=10)
    assert registry.store.decide(case.recovery, VerdictKind.HOLD, "so", {}, by="w") is not None
    return registry


@pytest.mark.parametrize("verb", ["recover", "discard", "stop"])
def test_who_saw_it_as_it_is_decides(held: Registry, verb: str) -> None:
    assert getattr(held.store, verb)("t", by="ann", reason="so", saw=HELD)


@pytest.mark.parametrize("saw", GONE_BY)
@pytest.mark.parametrize("verb", ["recover", "discard", "stop"])
def test_who_saw_something_else_changes_nothing(held: Registry, verb: str, saw: Saw) -> None:
    before = len(held.all_events())
    assert not getattr(held.store, verb)("t", by="ann", reason="so", saw=saw)
    assert len(held.all_events()) == before


def test_of_two_who_saw_the_same_one_decides(held: Registry) -> None:
    assert held.store.discard("t", by="ann", reason="so", saw=HELD)
    assert held.store.recover("t", by="bob", reason="so", saw=HELD) is None
    assert held.store.recover("t", by="bob", reason="so", saw=Saw(1, "discarded")) is not None


@pytest.mark.parametrize("running", [True, False])
def test_an_open_attempt_is_stopped_as_it_was_seen(registry: Registry, running: bool) -> None:
    me = registry.joins()
    me.runs() if running else me.claims()
    state, other = ("running", "claimed") if running else ("claimed", "running")
    assert registry.store.stop("t", by="ann", reason="so", saw=Saw(1, other)) is None
    assert registry.store.stop("t", by="ann", reason="so", saw=Saw(2, state)) is None
    assert registry.store.orders(me.id) == []
    assert registry.store.stop("t", by="ann", reason="so", saw=Saw(1, state)) is not None
