"""A kill for memory accounts for one death, at its time; no other death is put down to it."""

from __future__ import annotations

from crisper.engine.oom import APART_MS, OomWatch


class Kills:
    def __init__(self, count: int | None = 5) -> None:
        self.count = count

    def __call__(self) -> int | None:
        return self.count


def test_a_death_at_the_time_of_a_kill_is_accounted_for_once() -> None:
    kills = Kills()
    watch = OomWatch(kills)
    watch.look(1_000)
    kills.count = 6
    assert watch.accounts_for(2_000, 2_100)
    assert not watch.accounts_for(2_000, 2_100), "two died, and one was killed for memory"


def test_what_was_killed_before_we_looked_first_accounts_for_nothing() -> None:
    assert not OomWatch(Kills()).accounts_for(1_000, 1_000)


def test_a_death_that_is_noticed_late_is_accounted_for_by_when_it_was() -> None:
    kills = Kills()
    watch = OomWatch(kills)
    kills.count = 6
    watch.look(10_000)
    assert watch.accounts_for(9_500, 25_000)


def test_a_kill_accounts_for_no_death_at_another_time() -> None:
    kills = Kills()
    watch = OomWatch(kills)
    kills.count = 6
    watch.look(10_000)
    assert not watch.accounts_for(10_001 + APART_MS, 10_001 + APART_MS)
    assert not watch.accounts_for(9_999 - APART_MS, 10_000)
    assert watch.accounts_for(10_000 + APART_MS, 10_000 + APART_MS)


def test_where_no_kills_are_told_nothing_is_accounted_for() -> None:
    kills = Kills(None)
    watch = OomWatch(kills)
    kills.count = 9
    assert not watch.accounts_for(0, 0)
