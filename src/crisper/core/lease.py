"""Leases judged by observation (design, section 4). Pure: `now` is an argument, in seconds.

A lease is silent only if the same counter was seen at every observation over a
full lease, with no gap between two observations longer than a quarter of it.
Kubernetes' leader election and DynamoDB's lock client judge this way: the skew
of any clock is tolerated, only the rate of the observer's own matters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

#: A chain of observations breaks at a gap longer than this share of the lease.
GAP = 0.25


class Seen(NamedTuple):
    """One lease at one observation."""

    id: str
    counter: int
    lease: float  # seconds


@dataclass(slots=True)
class _Chain:
    counter: int
    lease: float
    since: float  # the chain of unbroken sightings of `counter` began
    last: float
    moved: float | None = None  # no earlier than this did the counter last move


class Observer:
    """Remembers the counters it has seen, and for how long each stood still."""

    def __init__(self) -> None:
        self._chains: dict[str, _Chain] = {}

    def observe(self, now: float, leases: Iterable[Seen], *, until: float | None = None) -> None:
        """Take in one successful observation of every live lease, begun at `now` and over at `until`.

        A lease may have been renewed in between: for its silence only what passes after that counts.
        """
        until = now if until is None else until
        seen = {lease.id: lease for lease in leases}
        for gone in self._chains.keys() - seen.keys():
            del self._chains[gone]
        for lease in seen.values():
            self._look(now, until, lease)

    def _look(self, now: float, until: float, seen: Seen) -> None:
        chain = self._chains.get(seen.id)
        if chain is None:
            self._chains[seen.id] = _Chain(seen.counter, seen.lease, until, now)
            return
        if chain.counter != seen.counter:
            # It was renewed after the last look, and nobody knows when: no later than the end of this one
            # for silence, no earlier than the beginning of that one for validity.
            chain.counter, chain.moved, chain.since = seen.counter, chain.last, until
        elif now - chain.last > seen.lease * GAP:
            chain.since = until
        chain.lease, chain.last = seen.lease, now

    def silent(self) -> dict[str, int]:
        """The leases whose silence is proven, with the counter to repeat when declaring."""
        return {
            id: chain.counter for id, chain in self._chains.items() if chain.last - chain.since >= chain.lease
        }

    def silent_for(self, id: str) -> float:
        """Seconds over which the counter was seen unmoved, without a gap."""
        chain = self._chains.get(id)
        return chain.last - chain.since if chain else 0.0

    def renewing(self, now: float) -> frozenset[str]:
        """The leases that moved within the last half lease: certainly valid still."""
        return frozenset(
            id
            for id, chain in self._chains.items()
            if chain.moved is not None and now - chain.moved <= chain.lease / 2
        )

    def restart(self, ids: Iterable[str], now: float) -> None:
        """Begin the observation of these anew (the brake's second look)."""
        for id in ids:
            if id in self._chains:
                self._chains[id].since = now


#: The brake holds when more than this share of the live leases fell silent at once.
BRAKE_SHARE = 0.5
BRAKE_LEAST = 3


class Brake:
    """Stops a mass declaration by silence until a second full observation confirms it.

    Kubernetes' node controller stops evicting at 55 % unhealthy for the same
    reason: when most of the fleet is silent, the observer is the likelier fault.
    """

    def __init__(self) -> None:
        self._held: set[tuple[str, int]] = set()

    def passes(self, silent: Mapping[str, int], alive: int) -> bool:
        """Whether the silent ones may be declared now; False at the first sight of many.

        `silent` maps each to its counter: one that renewed meanwhile is seen for the first time.
        """
        ids = set(silent.items())
        if len(ids) < BRAKE_LEAST or len(ids) <= alive * BRAKE_SHARE:
            return True
        confirmed = ids <= self._held
        self._held = self._held - ids if confirmed else ids
        return confirmed


def trust_window(lease: float, heartbeat: float) -> float:
    """Seconds an incarnation itself believes in its lease, from before the renewal was sent."""
    return lease - heartbeat - lease * GAP
