"""Which incidents there are, and who is still to be told of them. Pure.

An incident is a batch: what went wrong between two looks is told in one message, and what follows within
`PAUSE_MS` waits for the next, so that a host with a hundred workers is no hundred messages. Times are
milliseconds of the registry's clock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from crisper.settings import ALERTS

WORKER_LOST, QUARANTINE, BRAKE, REGISTRY_DOWN, SWEEPER_SILENT = KINDS = ALERTS

BEGUN, OVER = "begun", "over"

#: Between two incidents of a kind; what comes meanwhile is told together.
PAUSE_MS = 300_000
#: Whoever took a message has so long to send it, before another may.
TAKEN_MS = 60_000
#: A message that cannot be delivered is tried again after 5 s, 10 s, … five minutes; for some forty minutes.
FIRST_MS, LONGEST_MS, MOST_TRIES = 5_000, 300_000, 14

Members = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Facts:
    """What one look found: of each kind what could begin an incident, and what keeps one from being over."""

    now: int
    begins: Mapping[str, Members]
    lasts: Mapping[str, Collection[str]]


@dataclass(frozen=True)
class Incident:
    """One message when it begins, one when it is over; `left` are the channels that are still to be told."""

    id: str
    kind: str
    since: int
    members: Members
    stage: str = BEGUN
    left: tuple[str, ...] = ()
    told: tuple[str, ...] = ()  # that it has begun
    tries: int = 0
    due: int = 0
    ended: int = 0


@dataclass(frozen=True)
class Book:
    """All that is remembered between two looks."""

    incidents: tuple[Incident, ...] = ()
    seen: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    last: Mapping[str, int] = field(default_factory=dict)  # when a kind last began one


def first(facts: Facts) -> Book:
    """Where nobody looked before: what is over is no news, what waits for a person is."""
    old = {kind: tuple(facts.begins.get(kind, ())) for kind in (WORKER_LOST, BRAKE)}
    return Book(seen=old)


def look(
    book: Book, facts: Facts, *, kinds: Collection[str], channels: tuple[str, ...], new_id: Callable[[], str]
) -> Book:
    """What begins, and what is over."""
    going_on = [kept for one in book.incidents if (kept := _still(one, facts, channels)) is not None]
    seen, last = {}, dict(book.last)
    for kind in KINDS:
        there = facts.begins.get(kind, {})
        known = {
            *book.seen.get(kind, ()),
            *(id for one in going_on if one.kind == kind for id in one.members),
        }
        new = {id: about for id, about in there.items() if id not in known}
        if new and kind in kinds and facts.now - last.get(kind, -PAUSE_MS) >= PAUSE_MS:
            going_on.append(Incident(new_id(), kind, facts.now, new, left=channels, due=facts.now))
            last[kind] = facts.now
            known |= set(new)
        seen[kind] = tuple(id for id in there if id in known)
    return Book(tuple(going_on), seen, last)


def _still(one: Incident, facts: Facts, channels: tuple[str, ...]) -> Incident | None:
    if one.stage == OVER or set(one.members) & set(facts.lasts.get(one.kind, ())):
        return one
    left = tuple(name for name in one.told if name in channels)
    if not left:  # nobody was told that it began, unless somebody is telling it at this moment
        return one if one.due > facts.now else None
    return replace(one, stage=OVER, left=left, tries=0, due=facts.now, ended=facts.now)


def take(book: Book, now: int) -> tuple[Book, tuple[Incident, ...]]:
    """What is to be told now; for `TAKEN_MS` it is the taker's."""
    taken = tuple(one for one in book.incidents if one.left and one.due <= now)
    mine = {one.id for one in taken}
    kept = (replace(one, due=now + TAKEN_MS) if one.id in mine else one for one in book.incidents)
    return replace(book, incidents=tuple(kept)), taken


def told(book: Book, sent: Incident, reached: Collection[str], now: int, jitter: float) -> Book:
    """These channels were told of it as it was then; the others are tried again later."""
    kept = []
    for one in book.incidents:
        if (one.id, one.stage) == (sent.id, sent.stage):
            kept += _after(one, reached, now, jitter)
        elif one.id == sent.id:  # it ended meanwhile: who was told that it began is told that too
            late = tuple(name for name in reached if name not in one.told)
            kept.append(replace(one, left=one.left + late, told=one.told + late))
        else:
            kept.append(one)
    return replace(book, incidents=tuple(kept))


def _after(one: Incident, reached: Collection[str], now: int, jitter: float) -> list[Incident]:
    left = tuple(name for name in one.left if name not in reached)
    has_told = (
        (*one.told, *(name for name in one.left if name in reached)) if one.stage == BEGUN else one.told
    )
    tries = one.tries + 1
    if tries >= MOST_TRIES:
        left = ()
    if one.stage == OVER and not left:
        return []
    wait = min(LONGEST_MS, FIRST_MS * 2 ** min(tries - 1, 10)) * (0.5 + jitter / 2)
    return [replace(one, left=left, told=has_told, tries=tries if left else 0, due=now + int(wait))]
