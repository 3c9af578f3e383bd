"""A loop that stands is wedged only where every look found no reason for it."""

from __future__ import annotations

from crisper.engine.wedged import Loop, WedgeWatch, sentence

AFTER = 10_000
TICKED = 50_000


def looks(*loops: Loop, after: int = AFTER) -> list[bool]:
    watch = WedgeWatch(after)
    return [watch.look(loop) for loop in loops]


def standing(first: int, last: int, *, why: str = "", silent: bool = False, every: int = 1000) -> list[Loop]:
    """One look a second, from so long after its last tick to so long; its native thread speaks each time."""
    ages = range(first, last + 1, every)
    return [Loop(TICKED + age, TICKED, 0 if silent else TICKED + age - 200, why) for age in ages]


def test_one_that_stands_without_a_reason_is_wedged_after_its_time() -> None:
    *before, at_last = looks(*standing(1000, 10_000))
    assert not any(before)
    assert at_last


def test_so_is_one_whose_native_thread_does_not_run_either() -> None:
    assert looks(*standing(1000, 10_000, silent=True))[-1]


def test_one_that_ticks_is_not() -> None:
    assert not any(looks(*(Loop(at, at - 900, 0, "") for at in range(0, 60_000, 1000))))


def test_nor_one_that_never_began_to_turn() -> None:
    assert not any(looks(*(Loop(at, 0, at - 100, "") for at in range(1000, 60_000, 1000))))


def test_nor_one_in_an_outage_a_shutdown_or_a_solo_task_however_long() -> None:
    for why in ("broker", "shutdown", "task"):
        assert not any(looks(*standing(1000, 600_000, why=why)))


def test_a_reason_in_between_begins_the_count_anew() -> None:
    told = standing(1000, 20_000)
    told[11] = told[11]._replace(why="broker")  # at 12 s
    said = looks(*told)
    assert said[9]
    assert not any(said[11:15])
    assert said[16]


def test_a_reason_that_is_no_longer_said_excuses_nothing() -> None:
    once = [loop._replace(said_at=TICKED + 4000, why="broker") for loop in standing(4000, 30_000)]
    assert looks(*once)[-1]


def test_a_host_that_slept_has_not_looked() -> None:
    told = [*standing(1000, 4000), *standing(300_000, 301_000)]
    assert not any(looks(*told))


def test_a_process_that_is_stopped_is_the_leases_to_judge() -> None:
    assert not any(looks(*(loop._replace(stopped=True) for loop in standing(1000, 60_000))))


def test_the_shortest_time_is_enough_to_look_twice() -> None:
    assert looks(*standing(1000, 3000), after=3000) == [False, False, True]


def test_the_sentence_says_how_long_and_where() -> None:
    said = sentence(Loop(62_400, TICKED, 0, ""), "app.py:3, in hook")
    how_long, place = said.split(": ")
    assert how_long == "its loop has not gone round for 12 s, though its process lives"
    assert place == "it stands at app.py:3, in hook"
