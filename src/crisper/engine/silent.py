"""When a worker that is connected and idle, and takes nothing of what waits for it, is silent. Pure.

A worker that can take a message takes it within a second or two. So it is silent where, at every look over
the whole time, something waited in one of its queues, nobody took any of it, and nothing arrived here. A
queue from which somebody takes is not judged: its messages may be another worker's by right (a priority).
Silent too is one whose loop, or whose connection, waits all that time for an answer of a broker that answers
others: of that one the queues tell nothing, because the broker sends what comes into the broken connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

#: Looks within the time; and between two of them at most, in periods: else it does not count.
LOOKS, GAP = 4, 2.5

#: What may wait for a broker in vain.
LOOP = "its loop has waited for its broker"
CONNECTION = "its connection has been asked, and has said nothing"


class Idle(NamedTuple):
    """A connected worker that could take messages, or hangs, at one look. Times are milliseconds."""

    at: int
    life: tuple[int, int]  # of its connection, and its last record: it moves with whatever arrives
    waiting: Mapping[str, int]  # messages in each queue that it consumes
    hangs: str = ""  # LOOP or CONNECTION: for the broker, which answered us on another connection


class Silent(NamedTuple):
    since: int
    queue: str  # empty: something hangs
    waiting: int
    hangs: str = ""


class SilenceWatch:
    """Owned by one thread. `look` is called `LOOKS` times within `after_ms`, and a little more often."""

    def __init__(self, after_ms: int) -> None:
        self._after_ms = after_ms
        self._gap_ms = GAP * after_ms / LOOKS
        self._last: Idle | None = None
        self._since: dict[str, int] = {}

    def look(self, idle: Idle | None) -> Silent | None:
        """`None`: it is not idle, may take nothing, or its broker could not be asked."""
        last, self._last = self._last, idle
        if idle is None:
            self._since.clear()
            return None
        goes_on = last is not None and last.life == idle.life and idle.at - last.at <= self._gap_ms
        before = _counts(last) if last is not None and goes_on else {}
        counts = _counts(idle)
        self._since = {
            queue: self._since.get(queue, idle.at) if 0 < before.get(queue, 0) <= count else idle.at
            for queue, count in counts.items()
            if count > 0
        }
        queue = min(self._since, key=self._since.__getitem__, default=None)
        if queue is None or idle.at - self._since[queue] < self._after_ms:
            return None
        return Silent(self._since[queue], queue, idle.waiting.get(queue, 0), idle.hangs)


def _counts(idle: Idle) -> Mapping[str, int]:
    """What hangs is as one message in a queue without a name."""
    return {"": 1} if idle.hangs else idle.waiting


def sentence(silent: Silent, now: int) -> str:
    """What people read."""
    seconds = (now - silent.since) // 1000
    if silent.hangs:
        return f"{silent.hangs} for {seconds} s, and the broker answers other connections"
    messages = "1 message waits" if silent.waiting == 1 else f"{silent.waiting} messages wait"
    return (
        f"{messages} in the queue {silent.queue!r}, and for {seconds} s nobody has taken"
        " any; it is connected, idle, and its loop goes round"
    )
