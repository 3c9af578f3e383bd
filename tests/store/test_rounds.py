"""Two at once, on connections of their own, round after round: whoever comes first, the history is whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from crisper.core.model import Note, Record
from crisper.core.states import RecoveryState, State, VerdictKind
from crisper.errors import Fenced
from tests.store.acting import SCOPE, Actor, SqlRegistry, start
from tests.store.test_publishes import published
from tests.store.test_races import at_once

ROUNDS = 25


class Pair:
    """A registry, two more connections to it, and a worker on each."""

    def __init__(self, registry: SqlRegistry) -> None:
        self.registry = registry
        self.stores = [registry.another() for _ in range(2)]
        self.one, self.two = (Actor(store) for store in self.stores)

    def loses(self, task: str) -> None:
        """An attempt that ran, and its worker with it."""
        lost = self.registry.joins()
        lost.runs(task)
        lost.is_lost()


@pytest.fixture
def pair(shared: SqlRegistry) -> Pair:
    return Pair(shared)


def in_rounds(once: Callable[[str], None]) -> None:
    """Each with a task of its own."""
    for n in range(ROUNDS):
        once(f"t{n}")


def recorded(actor: Actor, *records: Record, **how: Any) -> list[str] | None:
    """The kinds of the answers; None if it was fenced."""
    try:
        return [answer.kind for answer in actor.record(*records, **how)]
    except Fenced:
        return None


def test_a_finish_against_a_sweep_closes_the_attempt_once(pair: Pair) -> None:
    def once(task: str) -> None:
        me, sweeper = Actor(pair.stores[0]), pair.stores[1]
        of = me.runs(task)
        finish = me.finish(of)

        def sweep() -> bool:
            declared = sweeper.declare_lost(me.id, 0, by="sweeper", evidence={})
            while sweeper.close_lost(me.id, by="sweeper").more:
                pass
            return bool(declared)

        closed, declared = at_once(lambda: recorded(me, finish), sweep)
        assert declared
        lost = closed is None
        assert pair.registry.states(task) == [State.LOST if lost else State.SUCCEEDED]
        assert len(pair.registry.recoveries(task)) == lost
        assert len(pair.registry.events("late_finish", task)) == lost

    in_rounds(once)


def test_two_couriers_that_decide_one_recovery_commit_one_verdict(pair: Pair) -> None:
    def once(task: str) -> None:
        pair.loses(task)
        [case] = pair.registry.take()
        decided = at_once(
            lambda: pair.stores[0].decide(case.recovery, VerdictKind.RESEND, "so", {}, by="one"),
            lambda: pair.stores[1].decide(case.recovery, VerdictKind.HOLD, "so", {}, by="two"),
        )
        [won] = [one for one in decided if one]
        assert pair.registry.recovery(task) == won
        assert [e.data["verdict"] for e in pair.registry.events("verdict", task)] == [won.verdict]
        pair.registry.store.complete(won, by="c", data={})

    in_rounds(once)


@pytest.mark.parametrize("redelivered", [False, True])
def test_two_claims_of_one_message_open_one_attempt(pair: Pair, redelivered: bool) -> None:
    """By whichever way each goes: what is redelivered is looked at row by row."""

    def once(task: str) -> None:
        one, two = pair.one, pair.two
        kinds = at_once(
            lambda: recorded(one, one.wants(task)),
            lambda: recorded(two, two.wants(task, redelivered=redelivered)),
        )
        assert sorted(kinds) == [["granted"], ["parked"]]
        assert pair.registry.states(task) == [State.CLAIMED]

    in_rounds(once)


def test_two_claims_of_a_lost_message_open_one_successor(pair: Pair) -> None:
    def once(task: str) -> None:
        pair.loses(task)
        pair.registry.nobody_decides()
        kinds = at_once(
            *(lambda a=a: recorded(a, a.wants(task, redelivered=True)) for a in (pair.one, pair.two))
        )
        assert sorted(kinds) == [["granted"], ["parked"]]
        assert pair.registry.states(task) == [State.LOST, State.CLAIMED]
        assert pair.registry.recovery(task).state is RecoveryState.DONE

    in_rounds(once)


def test_a_claim_against_the_courier_that_completes_its_recovery_ends_it_once(pair: Pair) -> None:
    def once(task: str) -> None:
        pair.loses(task)
        decided = pair.registry.decided(task, VerdictKind.RESEND)
        kinds, completed = at_once(
            lambda: recorded(pair.one, pair.one.wants(task)),
            lambda: pair.stores[1].complete(decided, by="c", data={}),
        )
        assert kinds == ["granted"]
        assert pair.registry.recovery(task).state is RecoveryState.DONE
        assert len(pair.registry.events("recovered", task)) == completed

    in_rounds(once)


@pytest.mark.parametrize("outcome", [State.SUCCEEDED, State.REVOKED, State.RELEASED])
def test_an_order_to_stop_against_an_outcome_is_given_or_comes_too_late(pair: Pair, outcome: State) -> None:
    def once(task: str) -> None:
        of = pair.one.runs(task)
        finish = pair.one.finish(of, outcome)
        kinds, stopped = at_once(
            lambda: recorded(pair.one, finish),
            lambda: pair.stores[1].stop(task, by="ann", reason="so"),
        )
        assert kinds == ["closed"]
        assert pair.registry.states(task) == [outcome]
        assert len(pair.registry.events("stop", task)) == (stopped is not None)
        if outcome is State.REVOKED:  # so that `recover` can undo it
            assert (pair.registry.body(task, 1) is not None) == (stopped is not None)
        assert pair.registry.store.orders(pair.one.id) == []

    in_rounds(once)


def test_an_order_to_stop_against_the_claim_of_the_next_attempt_holds_for_that_one(pair: Pair) -> None:
    def once(task: str) -> None:
        pair.one.ends(task, "m", State.RELEASED)
        wanted = pair.two.wants(task)
        kinds, stopped = at_once(
            lambda: recorded(pair.two, wanted),
            lambda: pair.stores[0].stop(task, by="ann", reason="so"),
        )
        assert stopped is not None
        if kinds == ["granted"]:
            assert [order.seq for order in pair.registry.store.orders(pair.two.id)] == [wanted.seq]
        else:
            assert kinds == ["stopped"]
        pair.two.finishes(wanted, State.REVOKED)

    in_rounds(once)


def test_a_journal_that_is_replayed_twice_at_once_is_on_record_once(pair: Pair) -> None:
    mine, again = pair.stores

    def once(task: str) -> None:
        me = pair.one
        of = me.wants(task, provisional=me.id, dispatched=True)
        told = [of, start(of), Note(me.next(), "told", task, {}), me.finish(of)]
        answers = at_once(
            *(lambda store=store: store.record(me.fence, told, renewing=()) for store in (mine, again))
        )
        assert answers[0] == answers[1]
        assert [answer.kind for answer in answers[0]] == ["granted", "closed"]
        assert pair.registry.states(task) == [State.SUCCEEDED]
        assert len(pair.registry.events("told", task)) == 1
        assert pair.registry.events("overlap", task) == pair.registry.events("late_finish", task) == []

    in_rounds(once)


def test_records_of_a_recorder_that_is_replaced_meanwhile_are_written_once_by_either(pair: Pair) -> None:
    me = pair.one

    def once(task: str) -> None:
        of, old = me.wants(task), me.fence
        told = [of, start(of), me.finish(of)]
        kinds, new = at_once(lambda: recorded(me, *told), lambda: pair.stores[1].replace_recorder(old))
        written = pair.registry.states(task)
        assert written == [State.SUCCEEDED] if kinds else written in ([], [State.CLAIMED])
        me.fence = new
        assert recorded(me, *told) == ["granted", "closed"]
        assert pair.registry.states(task) == [State.SUCCEEDED]
        assert pair.registry.events("late_finish", task) == []

    in_rounds(once)


def test_a_message_that_is_claimed_while_it_is_declared_vanished_runs_once(pair: Pair) -> None:
    def once(task: str) -> None:
        pair.registry.store.publish([published(task)], due_in_ms=0)
        [taken] = pair.registry.store.take_unclaimed(SCOPE, limit=9)
        mine = [(taken.message_id, taken.until)]
        kinds, declared = at_once(
            lambda: recorded(pair.one, pair.one.wants(task, f"m-{task}")),
            lambda: pair.stores[1].declare_vanished(mine, by="c", evidence={}, due_in_ms=0),
        )
        assert kinds == ["granted"]
        assert pair.registry.states(task) == [State.LOST] * len(declared) + [State.CLAIMED]
        assert len(pair.registry.recoveries(task)) == len(declared)
        pair.registry.store.retract(f"m-{task}")

    in_rounds(once)


def test_a_recover_and_a_discard_at_once_come_one_after_the_other(pair: Pair) -> None:
    def once(task: str) -> None:
        pair.loses(task)
        pair.registry.decided(task, VerdictKind.HOLD)
        recovered, discarded = at_once(
            lambda: pair.stores[0].recover(task, by="ann", reason="so"),
            lambda: pair.stores[1].discard(task, by="bob", reason="so"),
        )
        assert (recovered is not None) or discarded
        verdicts = [e.data["verdict"] for e in pair.registry.events("verdict", task)]
        # What was discarded may be recovered, and what is recovered is not discarded.
        expected = ["discard"] * discarded + ["recover"] * (recovered is not None)
        assert verdicts == ["hold", *expected]

    in_rounds(once)


def test_a_step_of_the_clock_that_two_saw_is_mended_once(pair: Pair) -> None:
    def once(task: str) -> None:
        pair.loses(task)
        before, mended = pair.registry.recovery(task), pair.registry.store.clock()[1]
        won = at_once(*(lambda store=store: store.mend_clock(mended, 1000) for store in pair.stores))
        assert sorted(won) == [False, True]
        assert pair.registry.recovery(task).created_at == before.created_at + 1000

    in_rounds(once)
