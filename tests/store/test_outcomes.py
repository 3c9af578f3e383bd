"""Starts, finishes, a child's loss, notes: how an attempt moves, and what comes too late."""

from __future__ import annotations

import pytest

from crisper.core.model import Entry
from crisper.core.states import CLOSED, MOVES, OPEN, RecoveryState, State
from crisper.errors import Fenced
from tests.store.acting import KEPT, Actor, Registry, start

OUTCOMES = sorted(CLOSED - {State.LOST})


def test_an_accepted_attempt_runs_in_a_known_process(registry: Registry) -> None:
    me = registry.joins()
    me.runs()
    attempt = registry.attempt("t")
    assert (attempt.state, attempt.pid, attempt.pid_start) == (State.RUNNING, 4242, 777)
    assert attempt.dispatched
    assert attempt.started_at is not None


def test_a_dispatch_is_durable_without_being_a_start(registry: Registry) -> None:
    me = registry.joins()
    me.record(start(me.claims(), pid=0))
    attempt = registry.attempt("t")
    assert (attempt.state, attempt.dispatched, attempt.started_at) == (State.CLAIMED, True, None)
    assert attempt.ran


def test_a_repeated_start_changes_nothing(registry: Registry) -> None:
    me = registry.joins()
    wanted = me.runs()
    before = registry.attempt("t")
    me.record(start(wanted, pid=9999))
    assert registry.attempt("t") == before


def test_a_start_after_the_end_changes_nothing(registry: Registry) -> None:
    me = registry.joins()
    wanted = me.claims()
    me.finishes(wanted)
    before = registry.attempt("t")
    me.record(start(wanted))
    assert registry.attempt("t") == before


def test_a_start_after_the_end_in_the_same_batch_changes_nothing(registry: Registry) -> None:
    me = registry.joins()
    wanted = me.wants()
    me.record(wanted, me.finish(wanted), start(wanted))
    attempt = registry.attempt("t")
    assert (attempt.state, attempt.pid, attempt.started_at) == (State.SUCCEEDED, None, None)


@pytest.mark.parametrize("state", OUTCOMES)
@pytest.mark.parametrize("running", [False, True], ids=["claimed", "running"])
def test_an_outcome_closes_an_open_attempt(registry: Registry, running: bool, state: State) -> None:
    me = registry.joins()
    wanted = me.runs() if running else me.claims()
    answer = me.finishes(wanted, state, reason="it says so", runtime_ms=1500, pid=31)
    assert answer.kind == "closed"
    attempt = registry.attempt("t")
    assert (attempt.state, attempt.reason, attempt.runtime_ms) == (state, "it says so", 1500)
    assert attempt.pid == (4242 if running else 31)
    assert attempt.finished_at is not None
    assert attempt.started_at is not None


def test_ages_become_times_of_the_registry(registry: Registry) -> None:
    me = registry.joins()
    wanted = me.wants(age_ms=60_000)
    me.record(wanted, start(wanted)._replace(age_ms=50_000))
    me.finishes(wanted, age_ms=10_000)
    attempt = registry.attempt("t")
    assert attempt.started_at is not None
    assert attempt.finished_at is not None
    assert abs(attempt.started_at - attempt.received_at - 10_000) < 1000
    assert abs(attempt.finished_at - attempt.started_at - 40_000) < 2000


def test_the_message_is_deleted_when_its_task_ends(registry: Registry) -> None:
    me = registry.joins()
    wanted = me.runs()
    assert registry.body("t", 1) == KEPT.body
    me.finishes(wanted)
    assert registry.body("t", 1) is None


def test_the_message_is_kept_while_its_task_is_lost(registry: Registry) -> None:
    me = registry.joins()
    me.runs()
    me.is_lost()
    assert registry.body("t", 1) == KEPT.body
    [case] = registry.take()
    assert case.message == KEPT


# An attempt never goes back.


def test_a_finish_in_time_closes_the_attempt(registry: Registry) -> None:
    me = registry.joins()
    wanted = me.runs()
    assert me.finishes(wanted).kind == "closed"
    me.is_lost()
    assert registry.states("t") == [State.SUCCEEDED]
    assert registry.recoveries("t") == []
    assert not registry.events("late_finish")


def test_a_late_finish_cannot_overwrite_a_lost_attempt(registry: Registry) -> None:
    me = registry.joins()
    wanted = me.runs()
    me.is_lost()
    before = registry.attempt("t")
    late = me.finish(wanted, runtime_ms=5)
    for _ in range(2):
        with pytest.raises(Fenced):
            me.record(late)
    assert registry.attempt("t") == before
    [event] = registry.events("late_finish", "t")
    assert (event.incarnation, event.seq, event.data["state"]) == (me.id, late.seq, "succeeded")


def test_a_fenced_incarnation_changes_nothing_even_before_its_attempts_are_closed(registry: Registry) -> None:
    me = registry.joins()
    wanted = me.runs()
    me.is_declared()
    with pytest.raises(Fenced):
        me.record(me.finish(wanted), me.wants("new"), me.notes("seen"))
    assert registry.states("t") == [State.RUNNING]
    assert registry.attempts("new") == []
    assert not registry.events("seen")
    assert len(registry.events("late_finish")) == 1


def test_a_finish_that_was_in_time_is_not_called_late_when_it_is_repeated(registry: Registry) -> None:
    me = registry.joins()
    wanted = me.runs()
    finish = me.finish(wanted)
    me.record(finish)
    me.is_declared()
    with pytest.raises(Fenced):
        me.record(finish)
    assert not registry.events("late_finish")


def test_a_childs_own_word_is_kept_though_its_attempt_was_lost(registry: Registry) -> None:
    """The word is numbered by its attempt, as nothing else may be."""
    me = registry.joins()
    wanted = me.runs()
    me.is_lost()
    with pytest.raises(Fenced):
        me.record(me.finish(wanted)._replace(seq=-wanted.seq))
    assert len(registry.events("late_finish", "t")) == 1
    assert len(registry.events("lost", "t")) == 1


def test_a_second_outcome_is_late(registry: Registry) -> None:
    me = registry.joins()
    wanted = me.runs()
    me.finishes(wanted, State.FAILED)
    assert me.finishes(wanted, State.SUCCEEDED).kind == "late"
    assert registry.states("t") == [State.FAILED]
    assert [e.data["why"] for e in registry.events("late_finish")] == ["the attempt was closed before"]


def test_a_repeated_finish_is_answered_as_it_was(registry: Registry) -> None:
    me = registry.joins()
    wanted = me.runs()
    in_time, late = me.finish(wanted), me.finish(wanted, State.FAILED)
    for _ in range(2):
        assert [a.kind for a in me.record(in_time, late)] == ["closed", "late"]
    assert len(registry.events("late_finish")) == 1


def test_one_incarnation_cannot_finish_anothers_attempt(registry: Registry) -> None:
    me, other = registry.joins(), registry.joins()
    mine = me.runs()
    other.claims("other")
    assert other.finishes(mine).kind == "late"
    assert registry.states("t") == [State.RUNNING]


# A child's loss.


def test_a_childs_loss_closes_its_attempt_with_a_recovery(registry: Registry) -> None:
    me = registry.joins()
    wanted = me.runs()
    assert me.loses_child(wanted).kind == "lost"
    attempt, recovery = registry.attempt("t"), registry.recovery("t")
    assert (attempt.state, attempt.counted, attempt.reason) == (State.LOST, True, "lost: child")
    assert (recovery.state, recovery.cause, recovery.losses) == (RecoveryState.PENDING, "child", 1)
    assert recovery.evidence == {"signal": 9}
    [event] = registry.events("lost", "t")
    assert (event.number, event.incarnation, event.actor) == (1, me.id, "worker")


def test_a_shutdowns_victims_are_not_counted(registry: Registry) -> None:
    me = registry.joins()
    assert me.loses_child(me.runs(), counted=False).kind == "lost"
    assert (registry.recovery("t").cause, registry.recovery("t").losses) == ("shutdown", 0)


def test_a_repeated_loss_does_nothing(registry: Registry) -> None:
    from crisper.core.model import ChildLost

    me = registry.joins()
    wanted = me.runs()
    lost = ChildLost(me.next(), wanted.seq, "t", True, {"signal": 9})
    assert [me.record(lost)[0].kind for _ in range(2)] == ["lost", "lost"]
    assert len(registry.recoveries("t")) == 1
    assert len(registry.events("lost", "t")) == 1


def test_a_finish_after_the_childs_loss_is_late_also_in_the_same_batch(registry: Registry) -> None:
    from crisper.core.model import ChildLost

    me = registry.joins()
    wanted = me.runs()
    answers = me.record(ChildLost(me.next(), wanted.seq, "t", True, {}), me.finish(wanted))
    assert [a.kind for a in answers] == ["lost", "late"]
    assert registry.states("t") == [State.LOST]


def test_a_childs_loss_after_the_finish_is_late(registry: Registry) -> None:
    me = registry.joins()
    wanted = me.runs()
    me.finishes(wanted)
    assert me.loses_child(wanted).kind == "late"
    assert registry.states("t") == [State.SUCCEEDED]
    assert registry.recoveries("t") == []


def test_a_child_whose_incarnation_was_fenced_loses_nothing_more(registry: Registry) -> None:
    me = registry.joins()
    wanted = me.runs()
    me.is_declared()
    with pytest.raises(Fenced):
        me.loses_child(wanted)
    assert registry.states("t") == [State.RUNNING]


# Notes.


def test_a_note_is_kept_once(registry: Registry) -> None:
    me = registry.joins()
    note = me.notes("adopted", "t")
    for _ in range(2):
        assert me.record(note) == []
    [event] = registry.events("adopted", "t")
    assert (event.incarnation, event.seq, event.data) == (me.id, note.seq, {"n": 1})


def test_a_note_of_anybody_is_kept(registry: Registry) -> None:
    registry.store.note("stopped", "t", 3, "ann", {"why": "too slow"})
    registry.store.note("pruned", None, None, "pruner", {})
    [event] = registry.events("stopped")
    assert (event.task_id, event.number, event.actor, event.data) == ("t", 3, "ann", {"why": "too slow"})


def test_nothing_recorded_is_nothing_answered(registry: Registry) -> None:
    assert registry.joins().record() == []


# The table of moves.


def _brought(registry: Registry, me: Actor, task: str, state: State):  # type: ignore[no-untyped-def]
    wanted = me.claims(task)
    if state is State.LOST:
        me.loses_child(wanted)
    elif state is State.RUNNING:
        me.record(start(wanted))
    elif state is not State.CLAIMED:
        me.finishes(wanted, state)
    assert registry.states(task) == [state]
    return wanted


@pytest.mark.parametrize("before", list(State))
def test_an_attempt_moves_only_along_the_table(registry: Registry, before: State) -> None:
    """Every verb that could move it is tried from every state; what moved is in the table, and all of it."""
    me, reached = registry.joins(), set()
    for after in State:
        if after is State.CLAIMED:
            continue
        task = f"to-{after}"
        wanted = _brought(registry, me, task, before)
        if after is State.RUNNING:
            me.record(start(wanted))
        elif after is State.LOST:
            me.loses_child(wanted)
        else:
            me.finishes(wanted, after)
        now = registry.attempt(task).state
        if now is not before:
            reached.add(now)
    assert reached == MOVES[before]


@pytest.mark.parametrize("before", list(State))
def test_the_end_of_its_worker_loses_only_an_open_attempt(registry: Registry, before: State) -> None:
    me = registry.joins()
    _brought(registry, me, "t", before)
    me.is_lost()
    assert registry.states("t") == [State.LOST if before in OPEN else before]


def test_what_is_left_over_at_the_broker_is_told_by_what_is_on_record(registry: Registry) -> None:
    me = registry.joins()
    over, open_, odd = me.claims("over"), me.claims("open"), me.claims("odd \0 id")
    me.finishes(over)
    me.finishes(odd)
    entries = [Entry(one.task_id, one.message_id, one.tag) for one in (over, open_, odd)]
    unknown = Entry("nobody's", "m", "tag")
    assert registry.store.left_over([*entries, unknown]) == [True, False, True, False]


def test_what_a_worker_released_is_left_over_only_if_it_died_before_it_gave_it_back(
    registry: Registry,
) -> None:
    leaves, dies = registry.joins(), registry.joins()
    released = [worker.claims(f"of {number}") for number, worker in enumerate((leaves, dies))]
    for worker, claim in zip((leaves, dies), released, strict=True):
        worker.finishes(claim, State.RELEASED)
    entries = [Entry(one.task_id, one.message_id, one.tag) for one in released]
    assert registry.store.left_over(entries) == [False, False]
    assert registry.store.say_goodbye(leaves.fence, reason="warm shutdown")
    dies.is_lost()
    assert registry.store.left_over(entries) == [False, True]
