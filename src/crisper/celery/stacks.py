"""Stacks of this worker's processes: by faulthandler for its recorder, by frames for its own threads."""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import linecache
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from types import FrameType

#: Real-time signals that nobody else is known to use; the first that is free is taken.
_OFFSETS = (11, 12, 13, 17)
_MOST_FRAMES = 60


class StackFile:
    """A file without a name, into which a process of this worker writes its stacks when it is signalled.

    faulthandler writes in the signal's own handler, whoever holds the interpreter lock; children inherit it.
    """

    def __init__(self) -> None:
        self.signal = 0  # 0: there is none here, and only py-spy can tell
        self.fd = _nameless_file()
        fcntl.fcntl(self.fd, fcntl.F_SETFL, os.O_APPEND)

    def register(self) -> None:
        """Before the pool forks. Nothing if no signal is free."""
        for number in _free_signals():
            with contextlib.suppress(OSError, ValueError, RuntimeError, AttributeError):
                faulthandler.register(number, file=self.fd, all_threads=True, chain=False)
                self.signal = number
                return


def _nameless_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("crisper-stacks")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _free_signals() -> Iterator[int]:
    first, last = getattr(signal, "SIGRTMIN", 0), getattr(signal, "SIGRTMAX", -1)
    for number in (first + offset for offset in _OFFSETS):
        if first and number <= last and signal.getsignal(number) is signal.SIG_DFL:
            yield number


def of_thread(ident: int) -> str:
    """The stack of one of our threads, as faulthandler would write it."""
    return of_frame(sys._current_frames().get(ident))


def of_frame(frame: FrameType | None) -> str:
    lines: list[str] = []
    while frame is not None and len(lines) < 2 * _MOST_FRAMES:
        code = frame.f_code
        lines.append(f'  File "{code.co_filename}", line {frame.f_lineno} in {code.co_name}')
        if source := linecache.getline(code.co_filename, frame.f_lineno).strip():
            lines.append(f"    {source}")
        frame = frame.f_back
    return "\n".join(lines)
