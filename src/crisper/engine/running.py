"""What a recorder knows of the attempts that run at its worker: kept here, and written with the heartbeat."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from crisper.core.model import Progress
from crisper.core.progress import so_far

#: Attempts whose own word came before the parent's that they began: the oldest are given up, of fenced ones.
MOST_EARLY = 500


@dataclass(slots=True)
class Run:
    """One attempt that runs."""

    task_id: str
    pid: int
    pid_start: int
    progress: Progress | None = None
    progress_at: int = 0  # milliseconds of the host's monotonic clock


class Running:
    """By the seq of their claims. Written by one thread, told by another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[int, Run] = {}
        self._early: dict[int, tuple[Progress, int]] = {}

    def began(self, seq: int, task_id: str, pid: int, pid_start: int) -> None:
        """Its start was recorded; again, by a parent that presents itself to another recorder."""
        with self._lock:
            run = self._runs.setdefault(seq, Run(task_id, pid, pid_start))
            if seq in self._early:
                run.progress, run.progress_at = self._early.pop(seq)

    def ended(self, seq: int) -> Run | None:
        """What was known of it last."""
        with self._lock:
            self._early.pop(seq, None)
            return self._runs.pop(seq, None)

    def clear(self) -> None:
        """The incarnation is over: what it ran is fenced."""
        with self._lock:
            self._runs.clear()
            self._early.clear()

    def heard(self, seq: int, progress: Progress, at: int) -> None:
        """An attempt said how far it is, at this time of the host's monotonic clock, in milliseconds."""
        with self._lock:
            run = self._runs.get(seq)
            if run is not None:
                run.progress, run.progress_at = progress, at
            else:
                self._early[seq] = progress, at
                if len(self._early) > MOST_EARLY:
                    del self._early[next(iter(self._early))]

    def told(self, now: int) -> dict[str, Any]:
        """For the heartbeat: of each attempt that there is something to say of."""
        with self._lock:
            told = {str(seq): about(run, now) for seq, run in self._runs.items()}
        return {seq: said for seq, said in told.items() if said}


def last_known(run: Run) -> dict[str, Any]:
    """For the evidence of its loss."""
    if run.progress is None:
        return {}
    done, total, note = run.progress
    return {"progress": f"{so_far(done, total)}{f': {note}' if note else ''}"}


def about(run: Run, now: int) -> dict[str, Any]:
    """What is known of it, as it is stored; ages are in milliseconds."""
    said: dict[str, Any] = {}
    if run.progress is not None:
        said["progress"] = {**run.progress._asdict(), "age_ms": max(0, now - run.progress_at)}
    return said
