"""Incidents: each is told once when it begins and once when it is over, whatever fails in between. Pure."""

from __future__ import annotations

import itertools
from typing import Any

from crisper.engine.alerts import incident
from crisper.engine.alerts.incident import (
    BRAKE,
    KINDS,
    MOST_TRIES,
    PAUSE_MS,
    QUARANTINE,
    TAKEN_MS,
    WORKER_LOST,
    Book,
    Facts,
)

BOTH = ("webhook", "chat 1")
ids = itertools.count()


def facts(
    now: int, lost: str = "", busy: str | None = None, quarantined: str = "", braked: str = ""
) -> Facts:
    """Each letter is one of them."""
    begins = {WORKER_LOST: lost, QUARANTINE: quarantined, BRAKE: braked}
    members = {kind: {one: {"about": one} for one in some} for kind, some in begins.items()}
    lasts: dict[str, Any] = {**members, WORKER_LOST: set(lost if busy is None else busy)}
    return Facts(now, members, lasts)


def look(book: Book | None, some: Facts, kinds: tuple[str, ...] = KINDS) -> Book:
    was = incident.first(some) if book is None else book
    return incident.look(was, some, kinds=kinds, channels=BOTH, new_id=lambda: f"i{next(ids)}")


def tell(book: Book, now: int, reached: tuple[str, ...] = BOTH) -> tuple[Book, list[tuple[str, str, str]]]:
    """Take what is due and tell it: `(kind, stage, members)` of each."""
    book, taken = incident.take(book, now)
    for one in taken:
        book = incident.told(book, one, [name for name in one.left if name in reached], now, 0.5)
    return book, [(one.kind, one.stage, "".join(one.members)) for one in taken]


def test_an_incident_is_told_when_it_begins_and_when_it_is_over() -> None:
    book = look(None, facts(0))
    book, told = tell(look(book, facts(1000, lost="ab")), 1000)
    assert told == [(WORKER_LOST, "begun", "ab")]
    for now in (2000, 3000):
        book, told = tell(look(book, facts(now, lost="ab", busy="b")), now)
        assert told == []
    book, told = tell(look(book, facts(4000, lost="ab", busy="")), 4000)
    assert told == [(WORKER_LOST, "over", "ab")]
    book, told = tell(look(book, facts(5000, lost="ab", busy="")), 5000)
    assert (book.incidents, told) == ((), [])


def test_what_was_over_before_anybody_looked_is_no_news_and_what_waits_is() -> None:
    _, told = tell(look(None, facts(0, lost="a", quarantined="q", braked="x")), 0)
    assert told == [(QUARANTINE, "begun", "q")]


def test_what_comes_within_the_pause_is_told_together_and_nothing_is_left_out() -> None:
    book, told = tell(look(look(None, facts(0)), facts(1000, quarantined="a")), 1000)
    assert told == [(QUARANTINE, "begun", "a")]
    book, told = tell(look(book, facts(2000, quarantined="ab")), 2000)
    assert told == []
    book, told = tell(look(book, facts(PAUSE_MS, quarantined="abc")), PAUSE_MS)
    assert told == []
    later = PAUSE_MS + 1000
    book, told = tell(look(book, facts(later, quarantined="abc")), later)
    assert told == [(QUARANTINE, "begun", "bc")]
    book, told = tell(look(book, facts(later + 1, quarantined="c")), later + 1)
    assert told == [(QUARANTINE, "over", "a")]


def test_a_kind_that_is_not_asked_for_is_not_told() -> None:
    book = look(None, facts(0), kinds=(BRAKE,))
    _, told = tell(look(book, facts(1000, lost="a", braked="x"), kinds=(BRAKE,)), 1000)
    assert told == [(BRAKE, "begun", "x")]


def test_what_another_has_taken_is_not_told_twice_and_is_not_lost_if_it_died() -> None:
    book = look(look(None, facts(0)), facts(1000, braked="x"))
    book, taken = incident.take(book, 1000)
    assert len(taken) == 1
    book, none = incident.take(look(book, facts(2000, braked="x")), 2000)
    assert none == ()
    book, again = incident.take(book, 1000 + TAKEN_MS)
    assert [one.id for one in again] == [one.id for one in taken]


def test_only_the_channel_that_failed_is_tried_again_ever_more_seldom_and_not_for_ever() -> None:
    book = look(look(None, facts(0)), facts(0, braked="x"))
    now, times = 0, []
    for _ in range(MOST_TRIES + 5):
        [one] = book.incidents
        assert one.left in (BOTH, ("chat 1",), ())
        if not one.left:
            break
        now = one.due
        times.append(now)
        book, _ = tell(book, now, reached=("webhook",))
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert len(times) == MOST_TRIES
    assert pauses == sorted(pauses)
    assert 20 * 60_000 < times[-1] < 60 * 60_000
    book, _ = tell(look(book, facts(now)), now)
    assert book.incidents == ()  # the end of it was told to the webhook alone


def test_an_end_is_told_to_whoever_was_told_the_beginning_and_to_nobody_else() -> None:
    book = look(look(None, facts(0)), facts(0, braked="x"))
    book, _ = tell(book, 0, reached=("chat 1",))
    [over] = look(book, facts(1000)).incidents
    assert (over.stage, over.left) == ("over", ("chat 1",))
    unheard, _ = tell(look(look(None, facts(0)), facts(0, braked="x")), 0, reached=())
    assert look(unheard, facts(unheard.incidents[0].due)).incidents == ()


def test_what_ends_while_its_beginning_is_sent_for_the_first_time_is_not_forgotten() -> None:
    book, taken = incident.take(look(look(None, facts(0)), facts(0, braked="x")), 0)
    book = look(book, facts(5))
    book = incident.told(book, taken[0], BOTH, 10, 0.0)
    assert tell(look(book, facts(20)), 20)[1] == [(BRAKE, "over", "x")]


def test_what_ends_while_its_beginning_is_sent_is_still_told_to_be_over() -> None:
    book = look(look(None, facts(0)), facts(0, braked="x"))
    book, _ = tell(book, 0, reached=("webhook",))
    book, taken = incident.take(book, book.incidents[0].due)
    book = look(book, facts(book.incidents[0].due))
    [one] = incident.told(book, taken[0], ["chat 1"], 9000, 0.0).incidents
    assert (one.stage, set(one.left)) == ("over", set(BOTH))
