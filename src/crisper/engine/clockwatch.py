"""The registry's clock, watched by one that cannot step: when it does, what is due moves along.

Nothing is judged by the registry's clock, but couriers wait by it: for a
redelivery, for another try, for a message that nobody claims. An hour forward
would end every wait at once, an hour back would make them an hour longer.
"""

from __future__ import annotations

from collections.abc import Callable

from crisper.engine.heartbeat import boottime
from crisper.store.base import Store

#: Less than this is drift, or a slow answer.
STEP_MS = 1_000


class ClockWatch:
    """One look is `tick`. Used by the elected sweeper alone, which begins anew with `forget`."""

    def __init__(self, store: Store, clock: Callable[[], float] = boottime) -> None:
        self._store, self._clock = store, clock
        self._last: tuple[int, int, float, float] | None = None

    def forget(self) -> None:
        """Somebody else watches, or nobody did for a while."""
        self._last = None

    def tick(self) -> int:
        """Milliseconds by which the clock was put forward since the last look; all is mended. 0: not at all.

        Raises `RegistryUnreachable`.
        """
        before = self._clock()
        now, mended = self._store.clock()
        after = self._clock()
        last, self._last = self._last, (now, mended, before, after)
        if last is None or last[1] != mended:
            return 0
        # The answer was made at some moment between asking and hearing, both times.
        least, most = (before - last[3]) * 1000, (after - last[2]) * 1000
        passed = now - last[0]
        step = round(passed - most if passed > most else passed - least if passed < least else 0)
        if abs(step) < STEP_MS or not self._store.mend_clock(mended, step):
            return 0
        self._last = (now, mended + 1, before, after)
        return step
