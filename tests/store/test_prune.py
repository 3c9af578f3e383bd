"""Forgetting what is over and old: as a whole, never what may still matter, a batch at a time."""

from __future__ import annotations

import pytest

from crisper.core.states import State, VerdictKind
from crisper.store.base import START, Old
from tests.store.acting import Actor, Registry

#: After everything that a test does.
LATER = 2**53
ALL, NOTHING = Old(LATER, LATER, LATER), Old(0, 0, 0)


def forget(registry: Registry, old: Old = ALL, limit: int = 100) -> list[int]:
    """A whole pass; how many tasks each batch forgot."""
    forgot, after = [], START
    while after is not None:
        pruned = registry.store.prune_tasks(old, after, limit=limit)
        forgot.append(pruned.tasks)
        after = pruned.mark
    return forgot


def lost(registry: Registry, actor: Actor, task_id: str, verdict: VerdictKind) -> None:
    actor.loses_child(actor.runs(task_id, f"m-{task_id}"))
    [case] = [c for c in registry.store.take_cases("c", "scope-1", limit=9) if c.recovery.task_id == task_id]
    assert registry.store.decide(case.recovery, verdict, "because", {}, by="c") is not None


@pytest.mark.parametrize(
    "state", [State.SUCCEEDED, State.FAILED, State.EXPIRED, State.RELEASED, State.REJECTED]
)
def test_what_is_over_is_forgotten_but_for_its_events_and_comes_as_new(
    registry: Registry, state: State
) -> None:
    actor = Actor(registry.store)
    actor.ends("t", "m", state)
    registry.store.note("remark", "t", 1, "ann", {})
    assert forget(registry) == [1]
    assert registry.attempts("t") == []
    assert len(registry.events("remark")) == 1
    assert actor.asks(actor.wants("t", "m")).kind == "granted"
    assert registry.attempt("t").number == 1


def test_a_count_forgets_nothing(registry: Registry) -> None:
    Actor(registry.store).ends("t", "m", State.SUCCEEDED)
    assert registry.store.prune_tasks(ALL, START, limit=9, only_count=True).tasks == 1
    assert registry.attempt("t").state is State.SUCCEEDED


def test_what_is_not_over_or_not_for_long_enough_stays_whole(registry: Registry) -> None:
    actor = Actor(registry.store)
    actor.runs("runs", "m1")
    actor.claims("claimed", "m2")
    actor.loses_child(actor.runs("pending", "m3"))
    for task_id, verdict in (("quarantined", VerdictKind.QUARANTINE), ("held", VerdictKind.HOLD)):
        lost(registry, actor, task_id, verdict)
    actor.ends("goes on", "m4", State.RETRIED)
    actor.runs("goes on", "m5")
    actor.ends("recent", "m6", State.SUCCEEDED)
    finished = registry.attempt("recent").finished_at
    assert finished is not None
    assert sum(forget(registry, Old(finished, finished, finished))) == 0
    assert sum(forget(registry)) == 1  # the recent one
    kept = {"runs": 1, "claimed": 1, "pending": 1, "quarantined": 1, "held": 1, "goes on": 2, "recent": 0}
    assert {task_id: len(registry.attempts(task_id)) for task_id in kept} == kept
    assert len(registry.recoveries("quarantined")) == 1
    assert len(registry.events("verdict", "held")) == 1


def test_an_order_to_stop_that_stands_keeps_its_task(registry: Registry) -> None:
    """Its message may still come, and must not run."""
    actor = Actor(registry.store)
    actor.ends("t", "m", State.RELEASED)
    assert registry.store.stop("t", by="ann", reason="wrong") is not None
    assert forget(registry) == [0]
    assert actor.asks(actor.wants("t", "m", redelivered=True)).kind == "stopped"


def test_a_discarded_task_goes_with_its_recovery(registry: Registry) -> None:
    actor = Actor(registry.store)
    lost(registry, actor, "t", VerdictKind.QUARANTINE)
    assert registry.store.discard("t", by="ann", reason="not needed")
    assert forget(registry) == [1]
    assert registry.recoveries("t") == []


def test_a_pass_goes_on_where_it_stopped_past_what_it_keeps(registry: Registry) -> None:
    actor = Actor(registry.store)
    for n in range(7):
        actor.runs(f"kept-{n}", f"k{n}")
        actor.ends(f"over-{n}", f"o{n}", State.SUCCEEDED)
    batches = forget(registry, limit=4)
    assert sum(batches) == 7
    assert len(batches) == 4  # of fourteen attempts
    assert all(len(registry.attempts(f"kept-{n}")) == 1 for n in range(7))


def test_what_belongs_to_no_task_goes_once_it_is_old(registry: Registry) -> None:
    gone, alive, user = (Actor(registry.store) for _ in range(3))
    gone.ends("t", "m", State.SUCCEEDED)
    user.runs("kept", "m2")
    for actor in (gone, user):
        assert registry.store.say_goodbye(actor.fence, reason="bye")
        registry.store.close_lost(actor.id, by="s")
    before = len(registry.all_events())
    assert registry.store.prune_rest(NOTHING, limit=100) == 0
    assert len(registry.all_events()) == before
    forget(registry)
    while registry.store.prune_rest(ALL, limit=3):
        pass
    assert {worker.id for worker in registry.store.alive()} == {alive.id}
    assert registry.worker(user.id).cleared  # its attempt waits for a courier
    with pytest.raises((AssertionError, ValueError)):
        registry.worker(gone.id)
    assert {event.task_id for event in registry.all_events()} == {"kept"}


def test_what_was_ever_lost_stays_until_that_is_old(registry: Registry) -> None:
    actor = Actor(registry.store)
    lost(registry, actor, "lost", VerdictKind.QUARANTINE)
    assert registry.store.discard("lost", by="ann", reason="not needed")
    actor.ends("finished", "m", State.SUCCEEDED)
    assert forget(registry, Old(LATER, 0, 0)) == [1]
    assert [len(registry.attempts(task)) for task in ("lost", "finished")] == [1, 0]
    assert forget(registry) == [1]


def test_events_outlive_their_task_with_the_worker_that_they_name(registry: Registry) -> None:
    gone = Actor(registry.store)
    lost(registry, gone, "t", VerdictKind.QUARANTINE)
    assert registry.store.discard("t", by="ann", reason="not needed")
    assert registry.store.say_goodbye(gone.fence, reason="bye")
    registry.store.close_lost(gone.id, by="s")
    forget(registry)
    while registry.store.prune_rest(Old(LATER, LATER, 0), limit=9):
        pass
    assert [event.incarnation for event in registry.events("lost", "t")] == [gone.id]
    assert registry.worker(gone.id).hostname
    while registry.store.prune_rest(ALL, limit=9):
        pass
    assert registry.events("lost", "t") == []
    with pytest.raises((AssertionError, ValueError)):
        registry.worker(gone.id)
