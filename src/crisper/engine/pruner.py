"""The pruner: forgets what has been over for longer than the retention, a batch at a time."""

from __future__ import annotations

import time
from collections.abc import Callable

from crisper.store.base import START, Store

DAY_MS = 86_400_000
#: Looked at, or forgotten, in one transaction: some 20 ms.
BATCH = 500
#: Between two passes over what is old.
PASS_SECONDS = 3600.0


class Pruner:
    """One turn is `tick`, of who leads the sweepers. Times are seconds of the caller's monotonic clock.

    What is old is told by the registry's clock or this host's, whichever is behind: one that was put forward
    by a year forgets nothing.
    """

    def __init__(self, store: Store, retention_days: float, *, wall: Callable[[], float] = time.time) -> None:
        self._store, self._retention_days, self._wall = store, retention_days, wall
        self._due, self._before, self._after = 0.0, 0, START

    def tick(self, now: float) -> int:
        """Forgets one batch, if a pass is due or under way; how many tasks. 0 days: nothing, ever."""
        if not self._retention_days or now < self._due:
            return 0
        if self._after == START:
            self._before = old_before(self._store, self._retention_days, self._wall)
        pruned = self._store.prune_tasks(self._before, self._after, limit=BATCH)
        if pruned.mark is not None:
            self._after = pruned.mark
        elif self._store.prune_rest(self._before, limit=BATCH) < BATCH:
            self._due, self._after = now + PASS_SECONDS, START
        return pruned.tasks


def old_before(store: Store, days: float, wall: Callable[[], float] = time.time) -> int:
    """Milliseconds of the registry's clock, as far as this host's confirms it."""
    registry, _ = store.clock()
    return min(registry, int(wall() * 1000)) - int(days * DAY_MS)
