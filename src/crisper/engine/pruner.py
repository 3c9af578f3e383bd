"""The pruner: forgets what has been over for longer than the retention, a batch at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from crisper.store.base import START, Old, Store

DAY_MS = 86_400_000
#: Looked at, or forgotten, in one transaction: some 20 ms.
BATCH = 500
#: Between two passes over what is old.
PASS_SECONDS = 3600.0
#: In what a worker says about itself: its settings, in days.
RETENTION = "retention"


class Retention(NamedTuple):
    """Days for which things stay on record after their end; infinite: for ever."""

    finished: float  # a task that was never lost
    lost: float  # one that was
    events: float  # once their task is forgotten

    @classmethod
    def of(cls, finished: float, lost: float, events: float) -> Retention:
        """By settings, in which 0 is for ever. What was lost is kept no shorter than the rest."""
        finished, lost, events = (days or math.inf for days in (finished, lost, events))
        return cls(finished, max(finished, lost), events)

    def old(self, now: int) -> Old:
        """What is old at this time of the registry's clock, in ms."""
        return Old(*(0 if days == math.inf else now - int(days * DAY_MS) for days in self))


FOR_EVER = Retention(math.inf, math.inf, math.inf)


class Pruner:
    """One turn is `tick`, of who leads the sweepers. Times are seconds of the caller's monotonic clock.

    What is old is told by the registry's clock or this host's, whichever is behind: one that was put forward
    by a year forgets nothing. Of the retention given and those that living workers have, the longest counts:
    apps that share a registry may differ. `retention`: None where no app is known, and only workers say.
    """

    def __init__(
        self, store: Store, retention: Retention | None, *, wall: Callable[[], float] = time.time
    ) -> None:
        self._store, self._retention, self._wall = store, retention, wall
        self._due, self._old, self._after = 0.0, Old(0, 0, 0), START

    def tick(self, now: float) -> int:
        """Forgets one batch, if a pass is due or under way; how many tasks."""
        if now < self._due:
            return 0
        if self._after == START:
            longest = self._longest()
            if longest.finished == math.inf:
                self._due = now + PASS_SECONDS
                return 0
            self._old = longest.old(trusted_now(self._store, self._wall))
        pruned = self._store.prune_tasks(self._old, self._after, limit=BATCH)
        if pruned.mark is not None:
            self._after = pruned.mark
        elif self._store.prune_rest(self._old, limit=BATCH) < BATCH:
            self._due, self._after = now + PASS_SECONDS, START
        return pruned.tasks

    def _longest(self) -> Retention:
        workers = [one.about for one in self._store.alive()]
        asked = [Retention.of(*about[RETENTION]) for about in workers if RETENTION in about]
        asked += [self._retention] if self._retention is not None else []
        return Retention(*map(max, zip(*asked, strict=True))) if asked else FOR_EVER


def trusted_now(store: Store, wall: Callable[[], float] = time.time) -> int:
    """Milliseconds of the registry's clock, as far as this host's confirms it."""
    registry, _ = store.clock()
    return min(registry, int(wall() * 1000))
