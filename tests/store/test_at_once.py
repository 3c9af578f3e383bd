"""What one statement may write, and what it leaves to the batch behind it."""

from __future__ import annotations

import pytest

from crisper.core.model import Fence, Message, Note
from crisper.core.states import State
from crisper.store.at_once import LARGEST_BODY, at_once
from tests.store.acting import KEPT, SqlRegistry, claim, start


def test_of_each_task_only_the_first_record_is_written(postgres_registry: SqlRegistry) -> None:
    me = postgres_registry.joins()
    one, two = me.wants("a", "m1"), me.wants("b", "m2")
    chosen = at_once([two, one, start(one), me.finish(two), me.wants("a", "m3")])
    assert (chosen.claims, chosen.starts, chosen.finishes) == ([one, two], [], [])


@pytest.mark.parametrize(
    "about",
    [
        {"redelivered": True},
        {"provisional": "an incarnation before"},
        {"message": Message(b"x" * (LARGEST_BODY + 1), "{}", LARGEST_BODY + 1)},
    ],
    ids=str,
)
def test_a_claim_that_needs_a_look_is_left(about: dict[str, object]) -> None:
    assert not at_once([claim(1, "a", **about)])
    assert at_once([claim(1, "a", message=KEPT)]).claims


@pytest.mark.parametrize("state", [State.REVOKED, State.RELEASED])
def test_an_outcome_that_needs_a_look_is_left(postgres_registry: SqlRegistry, state: State) -> None:
    me = postgres_registry.joins()
    assert not at_once([me.finish(claim(1, "a"), state)])
    assert at_once([me.finish(claim(1, "a"), State.FAILED)]).finishes


def test_a_note_is_about_a_task_and_holds_up_none_of_its_records() -> None:
    one = claim(2, "a")
    assert at_once([Note(1, "told", "a", {}), one]).claims == [one]


def test_without_the_fence_nothing_is_written(postgres_registry: SqlRegistry) -> None:
    me, wanted = postgres_registry.joins(), claim(1, "a")
    over = Fence(me.id, me.fence.generation + 1)
    assert not postgres_registry.store.db.at_once(over, [wanted]).answers
    assert postgres_registry.attempts("a") == []
    assert postgres_registry.store.db.at_once(me.fence, [wanted]).answers[1].kind == "granted"


def test_what_it_could_not_write_is_answered_by_the_batch_behind_it(postgres_registry: SqlRegistry) -> None:
    first, second = postgres_registry.joins(), postgres_registry.joins()
    held = first.claims("a", "m1")
    answers = second.record(second.wants("b", "m2"), second.wants("a", "m1"), second.finish(held))
    assert [answer.kind for answer in answers] == ["granted", "parked", "late"]
