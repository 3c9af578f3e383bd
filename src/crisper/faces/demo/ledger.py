"""What the tasks themselves wrote down: one line at the start and one at the end of each body.

Both rounds are judged by this file alone; Crisper's registry is not asked what Crisper achieved.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Line(NamedTuple):
    event: str  # start or end; read, of a document
    order: int  # or the document, counted from 0
    task_id: str
    worker: str
    at: float  # time.time()


class Ledger:
    """The lines of one moment."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self.lines = list(lines)

    def starts(self, task_id: str) -> list[Line]:
        return [line for line in self.lines if line.event == "start" and line.task_id == task_id]

    def ended(self) -> Counter[str]:
        """Task id to how often its body came to its end."""
        return Counter(line.task_id for line in self.lines if line.event == "end")

    def begun(self) -> set[str]:
        return {line.task_id for line in self.lines if line.event == "start"}

    def running(self) -> dict[str, list[Line]]:
        """Worker to the starts that it has not brought to an end; the busiest worker first."""
        ended = {(line.task_id, line.worker) for line in self.lines if line.event == "end"}
        running: dict[str, list[Line]] = {}
        for line in self.lines:
            if line.event == "start" and (line.task_id, line.worker) not in ended:
                running.setdefault(line.worker, []).append(line)
        return dict(sorted(running.items(), key=lambda item: -len(item[1])))


def read(path: Path) -> Ledger:
    """Whole lines only: the last one may be in the middle of its writing."""
    text = ""
    with contextlib.suppress(FileNotFoundError):
        text = path.read_text()
    rows = [line.split() for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return Ledger(Line(row[0], int(row[1]), row[2], row[3], float(row[4])) for row in rows)
