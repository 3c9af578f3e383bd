"""An attempt is stalled by what it says of itself, by its time limit, or by the usual time of its name."""

from __future__ import annotations

from crisper.engine.stalled import ENOUGH, LIMIT_GRACE_MS, Long, Stalled, Usual, is_long, judge, sentence


def one(age: int, *, stall_after: int = 0, limit: int = 0, usual: int = 0) -> Long:
    return Long(7, 1, "id", "shop.sync", 42, age, stall_after, limit, usual, "warn", "", "")


def test_one_that_never_said_how_far_it_is_counts_from_its_beginning() -> None:
    assert judge(one(59_999, stall_after=60_000), None) is None
    assert judge(one(60_000, stall_after=60_000), None) == Stalled(0, "no progress for 60 s, since it began")


def test_one_that_did_counts_from_what_it_said_last() -> None:
    assert judge(one(3_600_000, stall_after=60_000), 59_999) is None
    assert judge(one(3_600_000, stall_after=60_000), 61_000) == Stalled(3_539_000, "no progress for 61 s")


def test_without_a_bound_nothing_is_ever_stalled() -> None:
    assert judge(one(10**12), None) is None
    assert not is_long(10**12, 0, 0, 0)


def test_one_beyond_its_time_limit_and_the_grace_is_whatever_it_says() -> None:
    limit = 30_000
    assert judge(one(limit + LIMIT_GRACE_MS - 1, limit=limit), 10) is None
    said = judge(one(limit + LIMIT_GRACE_MS, limit=limit), 10)
    assert said == Stalled(0, "it has run for 40 s, and its time limit is 30 s")


def test_one_far_beyond_the_usual_of_its_name_is() -> None:
    assert judge(one(99_999, usual=100_000), None) is None
    said = judge(one(100_000, usual=100_000), None)
    assert said is not None
    assert said.sentence == "it has run for 100 s, far beyond the usual of shop.sync (100 s)"


def test_what_may_be_stalled_is_all_that_is_asked_about() -> None:
    assert is_long(2000, 2000, 0, 0)
    assert not is_long(1999, 2000, 0, 0)
    assert is_long(LIMIT_GRACE_MS + 1000, 0, 1000, 0)
    assert is_long(5, 0, 0, 5)


def test_the_usual_is_the_median_of_the_latest_and_a_few_that_hang_do_not_move_it() -> None:
    usual = Usual(10)
    for _ in range(ENOUGH - 1):
        usual.ran("a", 30.0)
    assert usual.beyond("a") == 0  # not known yet
    usual.ran("a", 36_000.0)
    assert usual.beyond("a") == 300_000
    assert usual.beyond("b") == 0


def test_nothing_that_takes_less_than_a_minute_is_far_beyond_the_usual() -> None:
    usual = Usual(10)
    for _ in range(ENOUGH):
        usual.ran("quick", 0.01)
    assert usual.beyond("quick") == 60_000


def test_the_sentence_says_what_its_process_does_and_where_it_stands() -> None:
    stalled = Stalled(0, "no progress for 60 s")
    waits = sentence(stalled, "tasks.py:4, in fetch", {"process_state": "S", "cpu_share": 0.0})
    assert waits == "no progress for 60 s: its process waits and stands at tasks.py:4, in fetch"
    assert sentence(stalled, "", {"cpu_share": 0.97}) == "no progress for 60 s: its process computes"
    assert sentence(stalled, "", {}) == "no progress for 60 s"
