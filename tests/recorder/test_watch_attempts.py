"""A parent that says nothing, because a body keeps its interpreter lock, is spoken for by its recorder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, cast

import pytest

from crisper.core.model import Sighting
from crisper.engine.stalled import Long
from crisper.recorder import wire
from crisper.recorder.stacks import Stacks
from crisper.recorder.watch_attempts import LOCKED, SPEAKS_MS, AttemptWatch, longer, monotonic_ms
from crisper.recorder.witness import Process

IN_A_BODY = '  File "/srv/tasks.py", line 7 in sync\n  File "/x/celery/app/trace.py", line 500 in trace_task'
ELSEWHERE = '  File "/x/celery/worker/loops.py", line 97 in asynloop'


class Text:
    """In the place of stacks that are taken by signals."""

    def __init__(self, text: str) -> None:
        self._text = text

    def of(self, process: Process) -> str:
        return self._text


@pytest.fixture
def parent() -> Iterator[Process]:
    process = Process(os.getpid(), None)
    yield process
    process.close()


def named(parent: Process, *, said_ago: int, stack: str = IN_A_BODY, runs: bool = True) -> list[Sighting]:
    """What one look comes to: the attempt had run for 50 s of its 60 when its parent said so."""
    one = Long(7, 1, "id", "shop.sync", parent.pid, 50_000, 60_000, 0, 0, "stop", "", "")
    said = (wire.LONG, monotonic_ms() - said_ago, [tuple(one)])
    seen: list[Sighting] = []
    ordered: list[Any] = []
    watch = AttemptWatch(
        cast(Stacks, Text(stack)), parent, long=lambda: said, quiet=lambda seq, now: None,
        runs=lambda seq: runs, process=lambda pid: parent, stop=ordered.append, may_act=lambda: True,
        testify=seen.append, tell=lambda item: None,
    )  # fmt: skip
    watch.look()
    assert ordered == []
    return seen


def test_what_it_said_last_grows_older_and_is_named(parent: Process) -> None:
    [seen] = named(parent, said_ago=11_000)
    assert seen.data["sentence"].startswith("no progress for 61 s, since it began:")
    assert seen.data["sentence"].endswith(f"/srv/tasks.py:7, in sync, and {LOCKED}")
    assert (seen.data["action"], seen.data["cannot_stop"]) == ("warn", LOCKED)


def test_a_second_earlier_it_is_not(parent: Process) -> None:
    assert named(parent, said_ago=9_000) == []


def test_nor_while_the_parent_speaks(parent: Process) -> None:
    assert named(parent, said_ago=SPEAKS_MS - 1000) == []


def test_nor_what_runs_no_body_or_whose_end_is_on_record(parent: Process) -> None:
    assert named(parent, said_ago=60_000, stack=ELSEWHERE) == []
    assert named(parent, said_ago=60_000, runs=False) == []


def test_one_that_begins_is_one_more_and_has_its_own_age() -> None:
    first = Long(1, 1, "a", "n", 9, 5_000, 60_000, 0, 0, "warn", "", "")
    known = longer((), (wire.LONG, 100_000, [tuple(first)]))
    known = longer(known, (wire.LONG, 100_700, [tuple(first._replace(seq=2, age=0))], True))
    ages = {one.seq: 101_000 - known[1] + one.age for one in (Long(*plain) for plain in known[2])}
    assert ages == {1: 6_000, 2: 300}
    assert longer(known, (wire.LONG, 101_000, [])) == (wire.LONG, 101_000, [])
