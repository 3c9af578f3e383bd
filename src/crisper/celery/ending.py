"""Ending the pool process that runs one attempt, and no other process, and no other attempt."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from crisper.celery.slots import Slots
from crisper.core.ending import may_end
from crisper.recorder.witness import LINUX, Process, is_stopped

#: A process that runs stops within a fraction of a millisecond; one that the kernel keeps does not, and is
#: not ended now: orders come again.
FREEZE_SECONDS = 0.05


def end(pool: Any, slots: Slots, seq: int, pid: int | None, number: int) -> bool:
    """Signal the pool process `pid` if it is ours and runs the attempt `seq` at this very moment."""
    processes = getattr(getattr(pool, "_pool", None), "_pool", None) or []
    found = next((one for one in processes if one.pid == pid), None)
    if found is None or pid is None:
        return False
    process = Process(pid, None)
    try:
        # Not reaped yet when it was opened, so the descriptor is of this process and no later one.
        if found.exitcode is not None:
            return False
        with frozen(process) as stands:
            if not may_end(seq, pid, slots.of(found.index), frozen=stands):
                return False
            pool.terminate_job(pid, number)
            return True
    finally:
        process.close()


@contextmanager
def frozen(process: Process) -> Iterator[bool]:
    """Whether it stands still; it goes on behind this, and then heeds what it was sent."""
    if not LINUX:
        yield True  # what it runs is all that can be known
        return
    process.kill(signal.SIGSTOP)
    try:
        yield _stands(process.pid)
    finally:
        process.kill(signal.SIGCONT)


def _stands(pid: int) -> bool:
    give_up = time.monotonic() + FREEZE_SECONDS
    while not is_stopped(pid):
        if time.monotonic() > give_up:
            return False
        os.sched_yield()
    return True
