"""Checkpoints on their way: of a loop of them the last, at once where somebody waits, never after the end."""

from __future__ import annotations

import itertools

import pytest

from crisper.core.model import ChildLost, Fence, Finish, Start
from crisper.core.states import State
from crisper.engine.checkpoints import AFTER_MS
from crisper.engine.writer import Writer
from crisper.errors import RegistryUnreachable
from crisper.store.memory import MemoryStore
from tests.store.acting import claim, incarnation


class Site:
    """A writer with one attempt that runs."""

    def __init__(self) -> None:
        self.now = 1_000
        self.store = MemoryStore(clock=lambda: self.now)
        self.fence: Fence = self.store.enroll(incarnation())
        self.writer = Writer(self.store, self.fence)
        self.said: list[str] = []
        self._numbers = itertools.count(1)
        self.writer.add(self.now, claim(self.next()))
        self.writer.add(self.now, Start(1, "t", 42, 7))
        self.writer.write(self.now + 100)

    def next(self) -> int:
        return next(self._numbers)

    def save(self, data: str, *, waits: bool = False) -> None:
        answer = self.said.append if waits else None
        self.writer.checkpoints.save(self.now, 1, "t", data, data, answer)

    def kept(self) -> str | None:
        kept = self.store.checkpoint("t")
        return kept and kept[2]


@pytest.fixture
def site() -> Site:
    return Site()


def test_of_a_loop_of_them_the_last_is_written_a_moment_after_the_first(site: Site) -> None:
    for made in range(AFTER_MS // 10):
        site.save(str(made))
        assert (site.writer.due(site.now) or 0) > 0
        site.writer.write(site.now)
        site.now += 10
    assert site.kept() is None
    assert site.writer.due(site.now) == 0
    assert site.writer.write(site.now).records == 1
    assert site.kept() == str(AFTER_MS // 10 - 1)
    assert site.writer.due(site.now) is None


def test_one_that_is_waited_for_is_written_at_once_and_says_where_it_is(site: Site) -> None:
    site.save("1", waits=True)
    assert site.writer.due(site.now) == 0
    assert site.writer.write(site.now).answers == []
    assert (site.kept(), site.said) == ("1", ["registry"])


def test_in_the_journal_it_is_safe_too_and_says_so(site: Site) -> None:
    lines: list[object] = []
    site.save("1", waits=True)
    site.writer.journal(site.now, lambda records: lines.extend(record for _, record in records))
    assert ([type(line).__name__ for line in lines], site.said) == (["Checkpoint"], ["journal"])


def test_while_nothing_takes_it_nobody_is_answered(site: Site) -> None:
    site.writer.use(None)
    site.save("1", waits=True)
    with pytest.raises(RegistryUnreachable):
        site.writer.write(site.now)
    assert (site.said, site.writer.due(site.now)) == ([], 0)
    site.writer.use(site.store)
    site.writer.write(site.now)
    assert site.said == ["registry"]


@pytest.mark.parametrize("end", ["finish", "loss", "last words"])
def test_it_is_written_before_the_end_of_its_attempt_whatever_the_haste(site: Site, end: str) -> None:
    site.save("1")
    if end == "finish":
        site.writer.add(site.now, Finish(site.next(), 1, "t", State.FAILED))
    elif end == "loss":
        site.writer.add(site.now, ChildLost(site.next(), 1, "t", True, {}))
    else:
        site.writer.last_words(site.now)
    site.writer.write(site.now)
    assert site.kept() == "1"


def test_of_an_attempt_that_is_over_it_is_late(site: Site) -> None:
    site.writer.add(site.now, Finish(site.next(), 1, "t", State.FAILED))
    site.writer.write(site.now)
    site.save("1", waits=True)
    site.writer.write(site.now)
    assert (site.kept(), site.said) == (None, ["late"])


def test_whoever_waits_while_the_fence_moves_is_told(site: Site) -> None:
    site.save("1", waits=True)
    site.writer.checkpoints.give_up(but=())
    assert (site.said, site.writer.due(site.now)) == (["late"], None)


def test_what_the_journal_let_run_goes_on_with_its_checkpoint_under_the_next_fence(site: Site) -> None:
    site.save("1", waits=True)
    site.writer.checkpoints.give_up(but={1})
    heir = Writer(site.store, site.fence)
    heir.inherit(site.writer, {1})
    heir.write(site.now)
    assert (site.kept(), site.said) == ("1", ["registry"])
