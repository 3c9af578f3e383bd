"""When a parent's loop that does not go round is wedged, and not rightly standing still. Pure.

The loop rightly stands still in a broker outage, a shutdown and a solo task, so its age alone says nothing:
what counts is that every look, for a third of the time, found no such reason.
"""

from __future__ import annotations

from typing import NamedTuple

#: Between two looks at most: else this host or the parent did not run, and the time does not count.
GAP_MS = 3000


class Loop(NamedTuple):
    """The parent's loop at one look. Times are milliseconds of the host's monotonic clock."""

    at: int
    ticked: int  # 0: it has not begun to turn
    said_at: int  # when the parent's own native thread last said why it stands; 0: it has not
    why: str  # what it said; empty: it knows no reason
    stopped: bool = False  # the whole process is, by a signal or a debugger: its lease says so


class WedgeWatch:
    """Owned by one thread. `look` is called about once a second."""

    def __init__(self, after_ms: int) -> None:
        self._after_ms = after_ms
        self._without_reason: int | None = None  # since when every look found none
        self._looked_at = 0

    def look(self, loop: Loop) -> bool:
        """Whether it is wedged, unless its stack shows a task's body (`holds_a_body`)."""
        gap, self._looked_at = loop.at - self._looked_at, loop.at
        stands = loop.at - loop.ticked
        excused = not loop.ticked or loop.stopped or bool(speaks(loop) and loop.why)
        if excused or gap > GAP_MS or stands < self._after_ms // 2:
            self._without_reason = None
            return False
        if self._without_reason is None:
            self._without_reason = loop.at
        return stands >= self._after_ms and loop.at - self._without_reason >= self._after_ms // 3


def speaks(loop: Loop) -> bool:
    """Whether the parent's native thread runs, and has said what it found since the loop stands."""
    return loop.said_at > loop.ticked and loop.at - loop.said_at <= GAP_MS


def sentence(loop: Loop, where: str) -> str:
    """What people read."""
    seconds = (loop.at - loop.ticked) // 1000
    place = f": it stands at {where}" if where else ""
    return f"its loop has not gone round for {seconds} s, though its process lives{place}"
