"""How often one person may decide: a script gone wild, or a stolen session, does not get far."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from crisper.faces.serve.saying import Answered

MOST, WITHIN_SECONDS = 60, 60.0


class Pace:
    """Used by the server's one thread. Names are those of accounts, so there are few."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._decided: dict[str, deque[float]] = {}

    def one_more(self, name: str, weight: int = 1) -> None:
        """Raises `Answered` if that is more than `MOST` within a minute; many at once weigh more than one."""
        now, decided = self._clock(), self._decided.setdefault(name, deque())
        while decided and now - decided[0] >= WITHIN_SECONDS:
            decided.popleft()
        if len(decided) + weight > MOST:
            raise Answered(
                429,
                "too_fast",
                f"That is more than {MOST} decisions in a minute. The command line takes many tasks at once.",
            )
        decided.extend([now] * weight)
