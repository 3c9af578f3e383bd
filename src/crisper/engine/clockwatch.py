"""The registry's clock, watched by one that cannot step: when it does, what is due moves along.

Nothing is judged by the registry's clock, but couriers wait by it: for a
redelivery, for another try, for a message that nobody claims. An hour forward
would end every wait at once, an hour back would make them an hour longer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from crisper.engine.heartbeat import boottime
from crisper.store.base import Store

#: Less than this is drift, or a slow answer.
STEP_MS = 1_000


class ClockWatch:
    """One look is `tick`. Used by the elected sweeper alone, which begins anew with `forget`."""

    def __init__(self, store: Store, clock: Callable[[], float] = boottime) -> None:
        self._store, self._clock = store, clock
        self._last: _Look | None = None

    def forget(self) -> None:
        """Somebody else watches, or nobody did for a while."""
        self._last = None

    def tick(self) -> int:
        """Milliseconds by which the clock was put forward since the last look; all is mended. 0: not at all.

        Raises `RegistryUnreachable`.
        """
        before = self._clock()
        now, mended = self._store.clock()
        seen = _Look(now, mended, before, self._clock())
        step = 0 if self._last is None else seen.step_since(self._last)
        if step and self._store.mend_clock(mended, step):  # if that fails, the next look finds the step again
            seen = seen._replace(mended=mended + 1)
        else:
            step = 0
        self._last = seen
        return step


class _Look(NamedTuple):
    """What the registry's clock said, how often it had been mended, and when we asked and heard."""

    now: int
    mended: int
    before: float
    after: float

    def step_since(self, last: _Look) -> int:
        """Milliseconds; 0 where there was none, or somebody else has mended one."""
        if last.mended != self.mended:
            return 0
        # The answer was made at some moment between asking and hearing, both times.
        least, most = (self.before - last.after) * 1000, (self.after - last.before) * 1000
        passed = self.now - last.now
        step = round(passed - most if passed > most else passed - least if passed < least else 0)
        return step if abs(step) >= STEP_MS else 0
