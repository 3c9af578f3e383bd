"""The recorder's main thread: wire in, group commit, answers out; and the witness at the end.

It reads what the parent sent, commits it, confirms it, and while it commits more
gathers in the socket: that is the group commit. When the parent dies it reads the
wire to its end, stops what is left of the pool, writes down what is known and
declares the death with its evidence.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from typing import Any

from crisper.engine.writer import Writer
from crisper.recorder import wire
from crisper.recorder.desk import monotonic_ms
from crisper.recorder.last_words import LastWords
from crisper.recorder.watch_attempts import longer
from crisper.recorder.witness import LINUX

ALIVE_EVERY = 1.0
#: When busy, wait one step for more before a commit; and, where the worker prefetches more meanwhile
#: (`crisper.celery.lending`), up to the first figure, as long as each step brings some. A commit for each
#: task costs more CPU on both sides than its disk write costs time.
LINGER, LINGER_STEP, LINGER_RECORDS = 0.008, 0.002, 64


class Recorder(LastWords):
    """One per worker. `run` returns the exit code."""

    def run(self) -> int:
        alive_at = 0.0
        while True:
            now = time.monotonic()
            if now >= alive_at:
                alive_at = now + ALIVE_EVERY
                with contextlib.suppress(BlockingIOError, BrokenPipeError):
                    os.write(wire.ALIVE_FD, b".")
                self._look_at_processes()
            self._wait(alive_at)
            self._turned_ms = monotonic_ms()
            if self._parent is not None and not self._parent.is_alive():
                return self._witness()
            if not self._wire_open:
                return self._after_the_wire()
            self._take_outcomes()
            self._write()
            self._pause()
            self._deliver_mail()
            self._send()

    def _wait(self, until: float) -> None:
        timeout = max(0.0, until - time.monotonic())
        if self._recording is not None:
            due = self._recording.due(monotonic_ms())
            if due is not None:
                timeout = min(timeout, max(due / 1000, self._write_after - time.monotonic()))
        self._select(timeout)
        if self._busy and self._recording is not None:
            self._linger(self._recording.writer)

    def _linger(self, writer: Writer) -> None:
        """Asleep, so that what arrives in one step is read at once."""
        long = self._lends and self._commit_seconds < LINGER  # else enough comes while it commits
        give_up, had = time.monotonic() + (LINGER if long else LINGER_STEP), 0
        while had < len(writer) < LINGER_RECORDS and time.monotonic() < give_up:
            had = len(writer)
            time.sleep(LINGER_STEP)
            self._select(0)

    def _take(self, item: tuple[Any, ...]) -> None:
        kind = item[0]
        if kind == wire.HELLO:
            self._greeted(item[1])
        elif kind == wire.TICK:
            self._tick, self._stands, self._lends = (item[1], item[2]), "", item[3]
        elif kind == wire.STANDS:
            self._stands, self._stood_at, self._stack = item[2], item[1], item[3]
        elif kind == wire.SILENT:
            self._silent = item
        elif kind == wire.LONG:
            self._long = longer(self._long, item)
        elif kind == wire.BYE:
            self._said_bye = item[1]
        elif kind == wire.ASK:
            self._ask(item)
        elif self._recording is None:
            self._early.append(item)
        elif kind == wire.DROP:
            self._recording.writer.drop(item[1])
        else:
            self._record(self._recording.writer, item)


def _name_process() -> None:
    """A clear name in `ps` and `top`; signals meant for the worker's group are not for us."""
    if LINUX:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(15, b"crisper-record", 0, 0, 0)  # PR_SET_NAME
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def main() -> None:
    _name_process()
    threading.excepthook = lambda args: os._exit(70)
    try:
        code = Recorder().run()
    except Exception:
        traceback.print_exc(file=sys.stderr)
        code = 70  # EX_SOFTWARE: the parent starts another
    os._exit(code)
