"""The circuit: whether it is worth calling the registry now.

The heartbeat, on its own thread and connection, finds out when the registry is
back, so that no task waits for the trial. A writer whose calls fail although the
heartbeat's do not leaves it alone for longer and longer.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

#: After a failure of the writer alone it is not called for so long, in seconds; doubled per failure.
HOLD, HOLD_MOST = 0.5, 30.0
#: Between two trials of the heartbeat, in seconds, doubled per failure; a random part of it, so that a
#: fleet does not come back in step.
RETRY, RETRY_MOST = 0.25, 4.0


class Circuit:
    """Closed: call. Open: it did not answer; the journal stands in. May be used from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, seed: int | None = None) -> None:
        self._clock, self._random = clock, random.Random(seed)
        self._opened_at: float | None = None
        self._failures = self._trials = 0
        self._held_until = 0.0

    @property
    def closed(self) -> bool:
        return self._opened_at is None and self._clock() >= self._held_until

    def opens_in(self) -> float | None:
        """Seconds for which the writer leaves the registry alone; None: until a heartbeat gets through."""
        return None if self._opened_at is not None else max(0.0, self._held_until - self._clock())

    def write_failed(self) -> None:
        now = self._clock()
        hold = min(HOLD_MOST, HOLD * 2.0 ** min(self._failures, 10))
        self._failures += 1
        self._opened_at, self._held_until = now, now + hold * self._random.uniform(0.5, 1.0)

    def wrote(self) -> None:
        self._failures = 0

    def trial_failed(self) -> float:
        """The heartbeat did not get through; seconds until it should try again."""
        if self._opened_at is None:
            self._opened_at = self._clock()
        self._trials += 1
        return min(RETRY_MOST, RETRY * 2.0 ** min(self._trials, 10)) * self._random.uniform(0.5, 1.0)

    def trial_worked(self, began: float) -> None:
        """A heartbeat that began then got through: what failed before that is over."""
        self._trials = 0
        if self._opened_at is not None and self._opened_at < began:
            self._opened_at = None

    def reset(self) -> None:
        """The writer may try again at once."""
        self._opened_at, self._held_until = None, 0.0

    def now(self) -> float:
        """For `trial_worked`."""
        return self._clock()
