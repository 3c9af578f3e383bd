"""Which records may be written together without changing what each of them means."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crisper.core.model import ChildLost, Claim, Finish, Note, Record, Start
from crisper.core.order import segments
from crisper.core.states import State
from tests.store.acting import claim

MADE = {
    "claim": lambda n, task: claim(n, task),
    "start": lambda n, task: Start(n, task, 1, 1),
    "finish": lambda n, task: Finish(n, n, task, State.SUCCEEDED),
    "child": lambda n, task: ChildLost(n, n, task, True, {}),
    "note": lambda n, task: Note(n, "seen", task, {}),
}
RANKS = [Claim, Start, Finish, ChildLost]


def record(n: int, kind: str, task: str = "t") -> Record:
    made: Record = MADE[kind](n, task)
    return made


def test_the_natural_way_of_many_tasks_is_one_segment() -> None:
    way = ("claim", "start", "finish")
    records = [record(n, kind, f"t{task}") for task in range(9) for n, kind in enumerate(way)]
    assert len(list(segments(records))) == 1


def test_a_retry_after_its_attempts_end_begins_a_segment() -> None:
    records = [record(n, kind) for n, kind in enumerate(("claim", "start", "finish", "claim"))]
    assert [len(segment) for segment in segments(records)] == [3, 1]


def test_a_note_cuts_nothing() -> None:
    records = [record(n, kind) for n, kind in enumerate(("finish", "note", "finish", "note"))]
    assert len(list(segments(records))) == 1


def test_nothing_has_no_segment() -> None:
    assert list(segments([])) == []


@given(st.lists(st.tuples(st.sampled_from(sorted(MADE)), st.sampled_from("ab"))))
def test_nothing_is_left_out_or_overtaken(drawn: list[tuple[str, str]]) -> None:
    records = [record(n, kind, task) for n, (kind, task) in enumerate(drawn)]
    cut = list(segments(records))
    assert [r for segment in cut for r in segment] == records
    for segment in cut:
        for task in "ab":
            ranks = [RANKS.index(type(r)) for r in segment if r.task_id == task and not isinstance(r, Note)]
            assert ranks == sorted(ranks)
