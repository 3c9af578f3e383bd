"""A worker is silent only where something waited at every look, and nobody took any of it."""

from __future__ import annotations

import pytest

from crisper.engine.silent import CONNECTION, LOOP, Idle, SilenceWatch, Silent, sentence

AFTER, PERIOD = 40_000, 10_000
LIFE = (1, 17)


def looks(*waiting: int | None, life: tuple[int, int] = LIFE, every: int = PERIOD) -> list[Silent | None]:
    """One look a period; None: not idle."""
    watch = SilenceWatch(AFTER)
    return [
        watch.look(None if count is None else Idle(n * every, life, {"mail": count, "empty": 0}))
        for n, count in enumerate(waiting)
    ]


def test_what_waits_for_its_time_and_is_taken_by_nobody_makes_it_silent() -> None:
    *before, at_last = looks(3, 3, 4, 4, 9)
    assert before == [None] * 4
    assert at_last == Silent(0, "mail", 9)


def test_an_empty_queue_does_not() -> None:
    assert looks(*[0] * 20) == [None] * 20


def test_nor_a_queue_that_somebody_takes_from() -> None:
    assert looks(*[9, 9, 9, 8] * 5) == [None] * 20


def test_nor_one_that_was_empty_in_between() -> None:
    assert looks(3, 3, 3, 0, 3, 3, 3, 3) == [None] * 8


def test_a_worker_that_ran_something_in_between_begins_anew() -> None:
    assert looks(3, 3, 3, None, 3, 3, 3, 3) == [None] * 8
    assert looks(3, 3, 3, None, 3, 3, 3, 3, 3)[-1] is not None


def test_so_does_one_to_which_something_came_or_that_connected_anew() -> None:
    for other in ((1, 18), (2, 17)):
        watch = SilenceWatch(AFTER)
        lives = [LIFE] * 3 + [other] * 4
        said = [watch.look(Idle(n * PERIOD, life, {"mail": 3})) for n, life in enumerate(lives)]
        assert said == [None] * 7


def test_a_host_that_slept_has_not_looked() -> None:
    assert looks(*[3] * 8, every=3 * PERIOD) == [None] * 8


def test_of_several_queues_that_is_named_which_waits_longest() -> None:
    watch = SilenceWatch(AFTER)
    for n in range(5):
        said = watch.look(Idle(n * PERIOD, LIFE, {"new": 5 if n > 2 else 0, "old": 1}))
    assert said == Silent(0, "old", 1)
    words = sentence(said, AFTER)
    assert words.startswith("1 message waits in the queue 'old', and for 40 s nobody has taken any;")


@pytest.mark.parametrize("what", [LOOP, CONNECTION])
def test_silent_too_is_what_hangs_on_a_broker_that_answers_others(what: str) -> None:
    watch = SilenceWatch(AFTER)
    said = [watch.look(Idle(n * PERIOD, LIFE, {}, hangs="" if n == 3 else what)) for n in range(9)]
    assert said[:8] == [None] * 8
    assert said[8] == Silent(40_000, "", 0, what)
    assert "the broker answers other connections" in sentence(said[8], 80_000)
    assert what in sentence(said[8], 80_000)
