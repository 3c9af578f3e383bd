"""Incarnations: who holds the fence, and how it is lost."""

from __future__ import annotations

import pytest

from crisper.core.model import Lease, Sighting
from crisper.core.states import State, WorkerState
from crisper.errors import Fenced
from crisper.store.base import Term
from tests.store.acting import PULSE, Actor, Registry, incarnation, start


def test_an_enrolled_incarnation_is_alive_with_counter_0_and_generation_1(registry: Registry) -> None:
    me = registry.joins()
    [worker] = registry.store.alive()
    assert (worker.id, worker.state, worker.counter, worker.generation) == (me.id, WorkerState.ALIVE, 0, 1)
    assert worker.about == {"pool": "prefork"}


def test_a_sweep_reads_of_each_live_worker_what_its_row_says(registry: Registry) -> None:
    first, lost, second = (registry.joins(boot_id=f"boot-{n}", pid=n) for n in range(3))
    lost.is_declared()
    registry.store.renew(second.fence, PULSE)
    leases = {lease.id: lease for lease in registry.store.leases()}
    assert leases.keys() == {first.id, second.id}
    for worker in registry.store.alive():
        lease = leases[worker.id]
        assert lease == Lease(*(getattr(worker, name) for name in Lease._fields))
    assert [leases[one.id].counter for one in (first, second)] == [0, 1]
    assert leases[second.id].recorder_pid == PULSE.recorder_pid


def test_enrolling_again_changes_nothing(registry: Registry) -> None:
    me = registry.joins()
    registry.store.renew(me.fence, PULSE)
    before = registry.worker(me.id)
    assert registry.store.enroll(me.about) == me.fence
    assert registry.worker(me.id) == before
    assert len(registry.events("worker_enrolled")) == 1


def test_enrolling_again_does_not_revive_a_lost_incarnation(registry: Registry) -> None:
    me = registry.joins()
    me.is_declared()
    fence = registry.store.enroll(me.about)
    assert registry.worker(me.id).state is WorkerState.LOST
    assert not registry.store.renew(fence, PULSE)


def test_a_renewal_counts_the_heartbeat_up(registry: Registry) -> None:
    me = registry.joins()
    assert registry.store.renew(me.fence, PULSE)
    assert registry.store.renew(me.fence, PULSE)
    worker = registry.worker(me.id)
    assert worker.counter == 2
    assert (worker.recorder_pid, worker.recorder_start) == (11, 22)
    assert worker.pulse == {"loop_age_ms": 3, "note": "fine"}


def test_a_lost_incarnation_cannot_renew(registry: Registry) -> None:
    me = registry.joins()
    me.is_declared()
    assert not registry.store.renew(me.fence, PULSE)
    assert registry.worker(me.id).counter == 0


def test_a_silent_incarnation_is_declared_lost(registry: Registry) -> None:
    me = registry.joins()
    assert registry.store.declare_lost(me.id, 0, by="sweeper", evidence={"how": "silence"})
    worker = registry.worker(me.id)
    assert worker.state is WorkerState.LOST
    assert worker.evidence == {"how": "silence", "by": "sweeper"}
    assert worker.ended_at is not None
    [event] = registry.events("worker_lost")
    assert (event.actor, event.incarnation, event.data) == ("sweeper", me.id, {"how": "silence"})


def test_declaring_loses_against_a_heartbeat_that_came_first(registry: Registry) -> None:
    me = registry.joins()
    assert registry.store.renew(me.fence, PULSE)
    assert not registry.store.declare_lost(me.id, 0, by="sweeper", evidence={})
    assert registry.worker(me.id).state is WorkerState.ALIVE
    assert not registry.events("worker_lost")


def test_only_one_declares(registry: Registry) -> None:
    me = registry.joins()
    assert registry.store.declare_lost(me.id, 0, by="one", evidence={})
    assert not registry.store.declare_lost(me.id, 0, by="two", evidence={})
    assert not registry.store.declare_own_loss(me.fence, evidence={})
    assert not registry.store.say_goodbye(me.fence, reason="stop")
    assert len(registry.events("worker_lost")) == 1


def test_an_unknown_incarnation_is_nobody(registry: Registry) -> None:
    assert not registry.store.declare_lost("nobody", 0, by="sweeper", evidence={})
    assert registry.store.close_lost("nobody", by="sweeper") == ((), False)


def test_the_witness_declares_whatever_the_counter(registry: Registry) -> None:
    me = registry.joins()
    registry.store.renew(me.fence, PULSE)
    assert registry.store.declare_own_loss(me.fence, evidence={"how": "parent gone"})
    assert registry.worker(me.id).evidence == {"how": "parent gone", "by": "witness"}


def test_a_replaced_witness_declares_nothing(registry: Registry) -> None:
    me = registry.joins()
    assert registry.store.replace_recorder(me.fence)
    assert not registry.store.declare_own_loss(me.fence, evidence={})
    assert registry.worker(me.id).state is WorkerState.ALIVE


def test_goodbye_is_an_end_without_a_loss(registry: Registry) -> None:
    me = registry.joins()
    assert registry.store.say_goodbye(me.fence, reason="warm shutdown")
    worker = registry.worker(me.id)
    assert (worker.state, worker.evidence["reason"]) == (WorkerState.GONE, "warm shutdown")
    assert not registry.store.renew(me.fence, PULSE)


def test_the_fence_moves_to_the_next_recorder(registry: Registry) -> None:
    me = registry.joins()
    held = me.claims()
    successor = registry.store.replace_recorder(me.fence)
    assert successor == (me.id, 2)
    me.fence = successor
    assert registry.store.renew(me.fence, PULSE)
    assert me.finishes(held).kind == "closed"


def test_a_hung_predecessor_can_write_nothing(registry: Registry) -> None:
    me = registry.joins()
    held = me.claims()
    hung = me.fence
    assert registry.store.replace_recorder(hung)
    assert not registry.store.renew(hung, PULSE)
    assert not registry.store.say_goodbye(hung, reason="stop")
    assert registry.store.replace_recorder(hung) is None
    with pytest.raises(Fenced):
        me.record(me.finish(held), me.wants("other"), me.notes("seen"))
    assert registry.states("t") == [State.CLAIMED]
    assert registry.attempts("other") == []
    assert not registry.events("seen")


def test_a_replaced_recorders_finish_is_not_late_its_successor_brings_it(registry: Registry) -> None:
    me = registry.joins()
    held = me.runs()
    finish = me.finish(held)
    hung, successor = me.fence, registry.store.replace_recorder(me.fence)
    with pytest.raises(Fenced):
        registry.store.record(hung, [finish])
    assert not registry.events("late_finish")
    [answer] = registry.store.record(successor, [finish])
    assert answer.kind == "closed"
    assert registry.states("t") == [State.SUCCEEDED]


def test_a_recorder_of_a_lost_incarnation_is_not_replaced(registry: Registry) -> None:
    me = registry.joins()
    me.is_declared()
    assert registry.store.replace_recorder(me.fence) is None


def test_only_what_may_have_open_attempts_is_uncleared(registry: Registry) -> None:
    living, lost, gone = registry.joins(), registry.joins(), registry.joins()
    lost.claims()
    lost.is_declared()
    assert registry.store.say_goodbye(gone.fence, reason="stop")
    assert {w.id for w in registry.store.alive()} == {living.id}
    assert {w.id for w in registry.store.uncleared()} == {lost.id, gone.id}
    for one in (lost, gone):
        registry.store.close_lost(one.id, by="sweeper")
    assert registry.store.uncleared() == []
    assert registry.worker(lost.id).cleared


def test_the_processes_of_running_attempts_are_known(registry: Registry) -> None:
    me = registry.joins()
    one, two, claimed = me.claims("one"), me.claims("two"), me.claims("three")
    me.record(start(one), start(two))
    assert set(registry.store.running_processes(me.id)) == {(4242, 777)}
    me.finishes(one)
    me.finishes(two)
    assert registry.store.running_processes(me.id) == []
    assert me.finishes(claimed).kind == "closed"


# Leadership.


def test_nobody_leads_at_first(registry: Registry) -> None:
    assert registry.store.term("sweeper") is None


def test_whoever_campaigns_first_leads(registry: Registry) -> None:
    assert registry.store.campaign("sweeper", "a", None) == Term("a", 1)
    assert registry.store.campaign("sweeper", "b", None) is None
    assert registry.store.term("sweeper") == Term("a", 1)


def test_a_leader_renews_and_its_rival_loses_the_race(registry: Registry) -> None:
    first = registry.store.campaign("sweeper", "a", None)
    assert registry.store.campaign("sweeper", "a", first) == Term("a", 2)
    assert registry.store.campaign("sweeper", "b", first) is None


def test_a_silent_leaders_term_is_taken_once(registry: Registry) -> None:
    first = registry.store.campaign("sweeper", "a", None)
    assert registry.store.campaign("sweeper", "b", first) == Term("b", 2)
    assert registry.store.campaign("sweeper", "c", first) is None
    assert registry.store.campaign("sweeper", "a", first) is None


def test_two_names_have_two_leaders(registry: Registry) -> None:
    registry.store.campaign("sweeper", "a", None)
    assert registry.store.campaign("pruner", "b", None) == Term("b", 1)


# What comes from outside.


@pytest.mark.parametrize("name", ["celery@a\0b", "celery@\udcff", "celery@" + "h" * 5000, "Ω" * 300])
def test_any_host_name_can_enroll(registry: Registry, name: str) -> None:
    me = Actor(registry.store, hostname=name, host=name, about={"app": name, "versions": (1, 2)})
    assert registry.store.renew(me.fence, PULSE)
    assert [w.id for w in registry.store.alive()] == [me.id]
    assert incarnation(hostname=name).hostname == name


def test_what_its_recorder_saw_of_a_worker_is_kept_as_events(registry: Registry) -> None:
    me = registry.joins()
    seen = [Sighting("wedged", {"stack": "a\x00b"}), Sighting("stalled", {"why": "é"}, "task", 2)]
    assert registry.store.testify(me.fence, seen)
    [wedged], [stalled] = registry.events("wedged"), registry.events("stalled")
    assert (wedged.incarnation, wedged.actor, wedged.task_id) == (me.id, "recorder", None)
    assert (stalled.task_id, stalled.number, stalled.data) == ("task", 2, {"why": "é"})


def test_what_a_fenced_recorder_saw_is_not(registry: Registry) -> None:
    me = registry.joins()
    me.is_declared()
    assert not registry.store.testify(me.fence, [Sighting("wedged", {})])
    assert registry.events("wedged") == []


# What a heartbeat tells of running attempts.


def test_the_last_heartbeat_says_how_far_its_attempts_are(registry: Registry) -> None:
    me = registry.joins()
    for done in (1, 2):
        assert registry.store.renew(me.fence, PULSE._replace(running={"7": {"progress": {"done": done}}}))
    assert registry.running(me.id) == {"7": {"progress": {"done": 2}}}
    assert registry.store.renew(me.fence, PULSE)
    assert registry.running(me.id) == {"7": {"progress": {"done": 2}}}, "of what has ended it means nothing"


def test_a_fenced_worker_says_nothing_of_its_attempts(registry: Registry) -> None:
    me = registry.joins()
    told = PULSE._replace(running={"7": {"progress": {"done": 1}}})
    assert registry.store.renew(me.fence, told)
    me.is_declared()
    assert not registry.store.renew(me.fence, PULSE._replace(running={"7": {"progress": {"done": 2}}}))
    assert registry.running(me.id) == told.running
