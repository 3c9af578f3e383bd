"""A task's resume point: of its open attempt alone, for its next one alone."""

from __future__ import annotations

import pytest

from crisper.core.model import Checkpoint
from crisper.core.states import State
from crisper.store.base import Old
from tests.store.acting import Actor, Registry

RETRY = {"message_id": "m2", "retries": 1}


def granted(answer: object) -> tuple[str, int, str]:
    return (answer.kind, answer.number, answer.checkpoint)  # type: ignore[attr-defined]


def test_the_next_attempt_is_granted_with_the_last_checkpoint(registry: Registry) -> None:
    me, other = registry.joins(), registry.joins()
    held = me.runs()
    for data in ("1", "2", '{"read": 3}'):
        assert me.saves(held, data).kind == "kept"
    assert registry.checkpoint("t") == (1, '{"read": 3}', 'preview of {"read": 3}')
    me.is_lost()
    registry.nobody_decides()
    wanted = other.wants(redelivered=True)
    assert granted(other.asks(wanted)) == ("granted", 2, '{"read": 3}')
    assert granted(other.asks(wanted)) == ("granted", 2, '{"read": 3}'), "asked again, it is told again"


def test_one_that_made_none_of_its_own_hands_on_what_it_was_given(registry: Registry) -> None:
    me = registry.joins()
    held = me.runs()
    me.saves(held, "1")
    for number in (2, 3):
        assert me.loses_child(held).kind == "lost"
        registry.nobody_decides()
        held = me.wants(redelivered=True)
        assert granted(me.asks(held)) == ("granted", number, "1")
    me.saves(held, "2")
    assert registry.checkpoint("t") == (3, "2", "preview of 2")


def test_a_retry_goes_on_from_it_too(registry: Registry) -> None:
    me = registry.joins()
    held = me.runs()
    me.saves(held, "1")
    me.finishes(held, State.RETRIED)
    assert granted(me.asks(me.wants(**RETRY))) == ("granted", 2, "1")


def test_after_a_success_a_task_begins_at_the_beginning(registry: Registry) -> None:
    me = registry.joins()
    held = me.runs()
    me.saves(held, "1")
    me.finishes(held, State.SUCCEEDED)
    again = me.wants(message_id="published anew")
    assert granted(me.asks(again)) == ("granted", 2, "")
    me.saves(again, "2")
    assert registry.checkpoint("t") == (2, "2", "preview of 2")


@pytest.mark.parametrize("over", ["closed", "lost", "fenced"])
def test_an_attempt_that_is_over_keeps_nothing_any_more(registry: Registry, over: str) -> None:
    me, other = registry.joins(), registry.joins()
    held = me.runs()
    me.saves(held, "1")
    if over == "fenced":
        me.is_lost()
        registry.nobody_decides()
        theirs = other.wants(redelivered=True)
        other.asks(theirs)
        other.saves(theirs, "2")
        me = Actor(registry.store)  # goes on as somebody new, with what it ran before
        assert me.saves(held, "3").kind == "late"
        assert registry.checkpoint("t") == (2, "2", "preview of 2")
        return
    if over == "closed":
        me.finishes(held, State.FAILED)
    else:
        me.loses_child(held)
    assert me.saves(held, "3").kind == "late"
    assert registry.checkpoint("t") == (1, "1", "preview of 1")


def test_a_claim_that_runs_nothing_yet_and_an_unknown_one_are_told_apart(registry: Registry) -> None:
    me = registry.joins()
    held = me.claims()
    assert me.saves(held, "1").kind == "kept", "its start is written later than its first checkpoint may be"
    assert me.saves(held._replace(seq=99), "2").kind == "late"
    assert registry.checkpoint("t") == (1, "1", "preview of 1")


def test_a_checkpoint_and_the_end_that_follows_it_in_one_batch_are_both_kept(registry: Registry) -> None:
    me = registry.joins()
    held = me.runs()
    made = [Checkpoint(-n, held.seq, "t", str(n), "p") for n in (1, 2)]
    answers = me.record(*made, me.finish(held, State.FAILED))
    assert [a.kind for a in answers] == ["kept", "kept", "closed"]
    assert registry.checkpoint("t") == (1, "2", "p")


def test_it_is_forgotten_with_its_task(registry: Registry) -> None:
    me = registry.joins()
    held = me.runs()
    me.saves(held, "1")
    me.finishes(held)
    registry.store.prune_tasks(Old(2**62, 2**62, 2**62), limit=100)
    assert registry.checkpoint("t") is None
