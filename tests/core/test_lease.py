"""Leases are judged by observation: the same counter, over a full lease, without a gap."""

from __future__ import annotations

import pytest

from crisper.core.lease import GAP, Brake, Observer, Seen, trust_window

LEASE = 20.0


def watch(observer: Observer, *times: float, counter: int = 7, id: str = "w", lease: float = LEASE) -> None:
    for now in times:
        observer.observe(now, [Seen(id, counter, lease)])


def every(seconds: float, start: float, end: float) -> list[float]:
    return [start + seconds * n for n in range(int((end - start) / seconds) + 1)]


def test_a_counter_that_stood_still_over_a_full_lease_is_silent() -> None:
    observer = Observer()
    watch(observer, *every(1, 0, 20))
    assert observer.silent() == {"w": 7}
    assert observer.silent_for("w") == 20


def test_one_second_earlier_it_is_not() -> None:
    observer = Observer()
    watch(observer, *every(1, 0, 19))
    assert observer.silent() == {}


def test_of_a_look_that_took_long_only_what_passes_after_it_is_silence() -> None:
    """The counter may have moved while it was under way."""
    observer = Observer()
    for now in every(1, 0, 22):
        observer.observe(now, [Seen("w", 7, LEASE)], until=now + 2.5 if now == 0 else now)
        assert bool(observer.silent()) == (now >= 23)
    watch(observer, 23)
    assert observer.silent() == {"w": 7}


def test_a_counter_that_moved_begins_anew() -> None:
    observer = Observer()
    watch(observer, *every(1, 0, 10))
    watch(observer, *every(1, 11, 30), counter=8)
    assert observer.silent() == {}
    watch(observer, 31, counter=8)
    assert observer.silent() == {"w": 8}


def test_a_counter_that_moved_back_has_moved() -> None:
    observer = Observer()
    watch(observer, *every(1, 0, 19))
    watch(observer, 20, counter=3)
    assert observer.silent() == {}


def test_a_gap_longer_than_a_quarter_of_the_lease_breaks_the_chain() -> None:
    observer = Observer()
    watch(observer, *every(1, 0, 10))
    watch(observer, *every(1, 15.01, 34.01))
    assert observer.silent() == {}
    watch(observer, 35.01)
    assert observer.silent() == {"w": 7}


def test_a_gap_of_just_a_quarter_does_not() -> None:
    observer = Observer()
    watch(observer, *every(1, 0, 10))
    watch(observer, 10 + LEASE * GAP)
    watch(observer, *every(1, 16, 20))
    assert observer.silent() == {"w": 7}


def test_an_outage_of_any_length_makes_nobody_silent() -> None:
    observer = Observer()
    watch(observer, 0, 1, 2)
    watch(observer, 86_400)
    assert observer.silent() == {}
    assert observer.silent_for("w") == 0


def test_two_looks_a_lease_apart_prove_nothing() -> None:
    observer = Observer()
    watch(observer, 0, 20, 40, 60)
    assert observer.silent() == {}


def test_each_lease_has_its_own_length() -> None:
    observer = Observer()
    for now in every(0.5, 0, 10):
        observer.observe(now, [Seen("short", 1, 10.0), Seen("long", 1, 40.0)])
    assert observer.silent() == {"short": 1}


def test_who_is_no_longer_alive_is_forgotten() -> None:
    observer = Observer()
    watch(observer, *every(1, 0, 20))
    observer.observe(21, [])
    assert observer.silent() == {}
    watch(observer, 22)
    assert observer.silent() == {}
    assert observer.silent_for("w") == 0
    assert observer.silent_for("never seen") == 0


# Renewing: certainly valid still.


def test_who_was_never_seen_to_move_is_not_known_to_renew() -> None:
    observer = Observer()
    watch(observer, 0, 1, 2)
    assert observer.renewing(2) == frozenset()


def test_who_moved_within_half_a_lease_is_renewing() -> None:
    observer = Observer()
    watch(observer, 0)
    watch(observer, 1, counter=8)
    assert observer.renewing(1) == {"w"}
    assert observer.renewing(10) == {"w"}


def test_half_a_lease_later_it_is_not() -> None:
    observer = Observer()
    watch(observer, 0)
    watch(observer, 1, counter=8)
    assert observer.renewing(10.01) == frozenset()


def test_a_move_seen_after_a_gap_may_be_as_old_as_the_gap() -> None:
    observer = Observer()
    watch(observer, 0)
    watch(observer, 60, counter=8)
    assert observer.renewing(60) == frozenset()
    watch(observer, 61, counter=9)
    assert observer.renewing(61) == {"w"}


# The brake.


def silent(*ids: str, counter: int = 1) -> dict[str, int]:
    return dict.fromkeys(ids, counter)


def test_most_of_the_fleet_at_once_is_held_until_it_is_seen_again() -> None:
    brake = Brake()
    assert not brake.passes(silent("a", "b", "c"), 5)
    assert brake.passes(silent("a", "b", "c"), 5)


def test_half_of_the_fleet_is_not_most_of_it() -> None:
    assert Brake().passes(silent("a", "b", "c"), 6)


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_are_never_held(count: int) -> None:
    assert Brake().passes(silent(*"ab"[:count]), count)


def test_three_of_three_are_held() -> None:
    assert not Brake().passes(silent("a", "b", "c"), 3)


def test_a_second_look_that_finds_further_ones_is_a_first_look() -> None:
    brake = Brake()
    assert not brake.passes(silent("a", "b", "c"), 5)
    assert not brake.passes(silent("a", "b", "c", "d"), 5)
    assert brake.passes(silent("a", "b", "c", "d"), 5)


def test_those_that_are_confirmed_one_after_another_all_pass() -> None:
    brake = Brake()
    assert not brake.passes(silent("a", "b", "c", "d", "e", "f"), 6)
    assert brake.passes(silent("a", "b"), 6)
    assert brake.passes(silent("c", "d", "e", "f"), 4)


def test_what_has_passed_is_held_anew_the_next_time() -> None:
    brake = Brake()
    assert not brake.passes(silent("a", "b", "c"), 3)
    assert brake.passes(silent("a", "b", "c"), 3)
    assert not brake.passes(silent("a", "b", "c"), 3)


def test_who_renewed_since_it_was_held_is_seen_for_the_first_time() -> None:
    brake = Brake()
    assert not brake.passes(silent("a", "b", "c"), 3)
    assert not brake.passes(silent("a", "b", "c", counter=2), 3)


def test_a_restarted_observation_takes_a_full_lease_again() -> None:
    observer = Observer()
    watch(observer, *every(1, 0, 20))
    observer.restart(observer.silent(), 20)
    watch(observer, *every(1, 21, 39))
    assert observer.silent() == {}
    watch(observer, 40)
    assert observer.silent() == {"w": 7}
    observer.restart(["gone"], 41)


def test_an_incarnation_trusts_its_lease_for_less_than_others_do() -> None:
    assert trust_window(20, 4) == 11
    assert trust_window(20, 4) < 20 - 4
