"""Which deaths the kernel's killing for memory accounts for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

#: A death and the kill that is counted for it are seen so far apart at most, in milliseconds: each is looked
#: for once a second.
APART_MS = 3_000


class OomWatch:
    """Looks at a counter of kills. Each accounts for one death, near the time at which it was counted."""

    def __init__(self, kills: Callable[[], int | None]) -> None:
        self._kills = kills
        self._known = kills()
        self._seen: deque[int] = deque(maxlen=1000)  # when each was counted, and not accounted for

    def look(self, now: int) -> None:
        """`now` in milliseconds of a clock that does not step."""
        kills = self._kills()
        if kills is not None and self._known is not None:
            self._seen.extend([now] * min(kills - self._known, 1000))
        self._known = kills
        while self._seen and now - self._seen[0] > 20 * APART_MS:
            self._seen.popleft()

    def accounts_for(self, died_at: int, now: int) -> bool:
        """Whether a kill was counted when this process died, and none of it was another's."""
        self.look(now)
        for at in self._seen:
            if abs(at - died_at) <= APART_MS:
                self._seen.remove(at)
                return True
        return False
