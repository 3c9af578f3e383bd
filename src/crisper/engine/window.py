"""What was committed lately, kept on the worker's disk: a replica that takes over may not have it.

Written to the system's memory only, not synced: it is for the death of the
registry's server, not of this host. In segments, so that what is old enough can
be forgotten file by file.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

from crisper.engine.folder import open_file
from crisper.engine.journal import Journal
from crisper.engine.lines import Life, Line

SUFFIX = ".window"
#: The window is forgotten in so many parts.
SEGMENTS = 6


class Window:
    """Owned by one thread. `seconds` of the past, in at most `most_bytes`."""

    def __init__(self, folder: Path, name: str, *, seconds: float, most_bytes: int) -> None:
        self._folder, self._name, self._seconds, self._most = folder, name, seconds, most_bytes
        earlier = self.segments()
        self._number = int(earlier[-1].stem.rpartition(".")[2]) if earlier else 0
        self._journal: Journal | None = None
        self._rotate_at = 0.0
        self._life: Life | None = None

    def segments(self) -> list[Path]:
        """The oldest first; those of recorders before us too."""
        return sorted(self._folder.glob(f"{self._name}.*{SUFFIX}"))

    def remember(self, life: Life, lines: Sequence[Line]) -> None:
        """Raises `JournalError` or `OSError`; what was committed is safe all the same."""
        if self._journal is None or time.monotonic() >= self._rotate_at or self._is_large():
            self._rotate()
        assert self._journal is not None
        self._journal.append(lines if self._life == life else [life, *lines], durable=False)
        self._life = life

    def _is_large(self) -> bool:
        return self._journal is not None and self._journal.end > self._most // SEGMENTS

    def _rotate(self) -> None:
        if self._journal is not None:
            self._journal.close()
        self._number += 1
        file = open_file(self._folder / f"{self._name}.{self._number:09d}{SUFFIX}")
        self._journal = None if file is None else Journal(file, most_bytes=self._most, check=False)
        self._rotate_at, self._life = time.monotonic() + self._seconds / SEGMENTS, None
        self._forget()

    def _forget(self) -> None:
        """What is older than the window, or too much."""
        forget_windows(self._folder, self._seconds)
        kept = 0
        for path in reversed(self.segments()):
            with contextlib.suppress(OSError):
                kept += path.stat().st_size
                if kept > self._most:
                    path.unlink()

    def read(self) -> list[Journal]:
        """What is in it, to be replayed in this order. A new segment is begun."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        files = [open_file(path) for path in self.segments()]
        return [Journal(file, most_bytes=self._most) for file in files if file is not None]

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None


def forget_windows(folder: Path, seconds: float) -> None:
    """Segments of whichever worker of this host that nobody has written to for so long."""
    before = time.time() - seconds
    for path in folder.glob(f"*{SUFFIX}"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < before:
                path.unlink()
