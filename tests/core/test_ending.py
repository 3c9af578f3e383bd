"""A hundred thousand races between an order to end an attempt and the process that runs it."""

from __future__ import annotations

import random
from collections.abc import Iterator

from crisper.core.ending import Doing, may_end


def test_it_ends_only_while_the_frozen_process_runs_that_very_attempt() -> None:
    assert may_end(7, 42, Doing(42, 7), frozen=True)
    assert not may_end(7, 42, Doing(42, 8), frozen=True)  # the next one
    assert not may_end(7, 42, Doing(42, 0), frozen=True)  # none: the last one has ended
    assert not may_end(7, 42, Doing(43, 7), frozen=True)  # a later process in its place
    assert not may_end(7, 42, Doing(42, 7), frozen=False)
    assert not may_end(7, 42, None, frozen=True)
    assert not may_end(0, 42, Doing(42, 0), frozen=True)


class Process:
    """A pool process as the kernel runs it: a step at a time, unless it is frozen."""

    def __init__(self, pid: int, seqs: list[int]) -> None:
        self.pid, self.frozen, self.word = pid, False, 0
        self.runs = 0  # what really runs, whatever is written down
        self._steps = self._life(seqs)

    def _life(self, seqs: list[int]) -> Iterator[None]:
        for seq in seqs:
            self.runs = seq  # the body is about to begin
            yield
            self.word = seq
            for _ in range(random.randrange(4)):
                yield
            self.word = 0
            yield
            self.runs = 0
            yield

    def step(self) -> None:
        if not self.frozen:
            next(self._steps, None)


def race(*, freezes: bool) -> int:
    """The attempt that was hit when attempt 2 was to end; 0: none."""
    process = Process(42, [1, 2, 3])
    steps = random.randrange(18)

    def meanwhile() -> None:
        for _ in range(random.randrange(3)):
            process.step()

    for _ in range(steps):
        process.step()
    process.frozen = freezes
    meanwhile()
    doing = Doing(process.pid, process.word)
    meanwhile()
    hit = process.runs if may_end(2, 42, doing, frozen=True) else 0
    if hit == 0 and may_end(2, 42, doing, frozen=True):
        hit = -1  # a process that runs nothing
    return hit


def test_no_race_ends_anything_else() -> None:
    random.seed(7)
    hits = [race(freezes=True) for _ in range(100_000)]
    assert set(hits) == {0, 2}
    assert hits.count(2) > 5_000


def test_without_freezing_it_first_others_would_be_hit() -> None:
    """What the checker is worth."""
    random.seed(7)
    assert {race(freezes=False) for _ in range(20_000)} > {0, 2}
