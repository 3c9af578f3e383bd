"""What each pool process runs at this moment: a word of shared memory for each, which nobody else writes."""

from __future__ import annotations

import mmap
import os

from billiard.process import current_process

from crisper.core.ending import Doing

#: Pool processes of one worker, at most; what runs in one beyond is not ended by anybody.
MOST = 4096
_WORD = 8


class Slots:
    """Made in the parent before the pool forks. By the pool's own index of a process, which no two that live
    share (billiard/pool.py, `_avail_index`)."""

    def __init__(self) -> None:
        self._words = memoryview(mmap.mmap(-1, 2 * MOST * _WORD)).cast("q")
        self._own = -1

    def born(self) -> None:
        """In a child, once."""
        index = getattr(current_process(), "index", None)
        if isinstance(index, int) and 0 <= index < MOST:
            self._own = 2 * index + 1
            self._words[self._own] = 0
            self._words[self._own - 1] = os.getpid()

    def runs(self, seq: int) -> None:
        """In a child: the attempt whose body begins; 0 when it has ended. One store of one word."""
        if self._own >= 0:
            self._words[self._own] = seq

    def of(self, index: object) -> Doing | None:
        if not isinstance(index, int) or not 0 <= index < MOST:
            return None
        return Doing(self._words[2 * index], self._words[2 * index + 1])
