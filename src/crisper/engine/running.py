"""What a recorder knows of the attempts that run at its worker: kept here, and written with the heartbeat."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from crisper.core.model import Progress
from crisper.core.progress import so_far
from crisper.core.size import size

#: Attempts whose own word came before the parent's that they began: the oldest are given up, of fenced ones.
MOST_EARLY = 500

#: A process that has been gone for so long, in milliseconds, while its parent's loop went round and read all
#: that it had left, is one whose end nobody noticed: the parent is told, and told again as often.
UNNOTICED_MS, TELL_AGAIN_MS = 2_000, 1_000


class Seen(NamedTuple):
    """A look at a process."""

    gone: bool | None  # None: cannot be told from here
    memory: int | None = None  # resident, in bytes


class Unnoticed(NamedTuple):
    """An attempt whose process is gone, and whose worker says nothing of it."""

    seq: int  # of its claim
    pid: int
    gone_ms: int


@dataclass(slots=True)
class Run:
    """One attempt that runs. Times are milliseconds of the host's monotonic clock."""

    task_id: str
    pid: int  # of a process of its own; 0 where it shares the worker's
    pid_start: int
    progress: Progress | None = None
    progress_at: int = 0
    memory: int | None = None  # of its process, when it was last seen
    gone_at: int | None = None  # when its process was first seen to be gone
    told_at: int = 0


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

    def runs(self, seq: int) -> bool:
        """From any thread."""
        return seq in self._runs

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

    def quiet(self, seq: int, now: int) -> int | None:
        """Milliseconds since it last said how far it is; None if it never has. From any thread."""
        with self._lock:
            run = self._runs.get(seq)
            if run is not None and run.progress is not None:
                return max(0, now - run.progress_at)
            early = self._early.get(seq)
            return None if early is None else max(0, now - early[1])

    def look(self, now: int, see: Callable[[int, int], Seen], ticked: int) -> list[Unnoticed]:
        """Look at every process of its own once. `ticked`: when the parent's loop last did. Answers the ends
        that the parent is to be told of now."""
        with self._lock:
            runs = [(seq, run) for seq, run in self._runs.items() if run.pid]
        return [
            Unnoticed(seq, run.pid, now - gone_at)
            for seq, run in runs
            if (gone_at := _gone_at(run, see(run.pid, run.pid_start), now)) is not None
            and _is_unnoticed(run, gone_at, now, ticked)
        ]

    def told(self, now: int) -> dict[str, Any]:
        """For the heartbeat: of each attempt that there is something to say of."""
        with self._lock:
            told = {str(seq): about(run, now) for seq, run in self._runs.items()}
        return {seq: said for seq, said in told.items() if said}


def _gone_at(run: Run, seen: Seen, now: int) -> int | None:
    """When it was first seen to be gone; what was seen is kept."""
    if seen.gone:
        run.gone_at = run.gone_at or now
        return run.gone_at
    run.gone_at = None
    run.memory = seen.memory or run.memory
    return None


def _is_unnoticed(run: Run, gone_at: int, now: int, ticked: int) -> bool:
    """The loop ticks once a second, and reads what is there before that."""
    went_round = ticked - gone_at >= UNNOTICED_MS // 2
    if now - gone_at < UNNOTICED_MS or not went_round or now - run.told_at < TELL_AGAIN_MS:
        return False
    run.told_at = now
    return True


def last_known(run: Run) -> dict[str, Any]:
    """For the evidence of its loss."""
    known = {}
    if run.progress is not None:
        done, total, note = run.progress
        known["progress"] = f"{so_far(done, total)}{f': {note}' if note else ''}"
    if run.memory is not None:
        known["memory"] = size(run.memory)
    return known


def about(run: Run, now: int) -> dict[str, Any]:
    """What is known of it, as it is stored; ages are in milliseconds."""
    said: dict[str, Any] = {}
    if run.progress is not None:
        said["progress"] = {**run.progress._asdict(), "age_ms": max(0, now - run.progress_at)}
    if run.memory is not None:
        said["memory"] = run.memory
    return said
