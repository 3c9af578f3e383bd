"""Taking the Python stack of another process of this worker, and what the kernel tells of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from crisper.core.stack import bounded
from crisper.recorder.witness import LINUX, Process, process_state

#: faulthandler answers within milliseconds, unless the process sleeps in the kernel.
ANSWER_SECONDS = 2.0
PY_SPY_SECONDS = 4.0
_LOOK_SECONDS = 0.02


class Stacks:
    """One at a time: all processes of a worker write into one file."""

    def __init__(self, fd: int, number: int) -> None:
        """`number`: the signal on which they do; 0 if they do not."""
        self._fd, self._number = fd, number
        self._py_spy = shutil.which("py-spy")

    def of(self, process: Process) -> str:
        """By py-spy where it is installed and allowed, else by faulthandler; empty if neither tells."""
        return bounded(self._by_py_spy(process) or self._by_faulthandler(process))

    def _by_py_spy(self, process: Process) -> str:
        if self._py_spy is None or not process.is_alive():
            return ""
        command = [self._py_spy, "dump", "--nonblocking", "--pid", str(process.pid)]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=PY_SPY_SECONDS, check=False, errors="replace"
            )
            return done.stdout if done.returncode == 0 else ""
        return ""

    def _by_faulthandler(self, process: Process) -> str:
        if not self._number or not catches(process.pid, self._number):
            return ""  # the signal would end it
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
            process.kill(self._number)
            return self._read()
        return ""

    def _read(self) -> str:
        """Until it grows no more."""
        give_up, seen = time.monotonic() + ANSWER_SECONDS, 0
        while time.monotonic() < give_up:
            time.sleep(_LOOK_SECONDS)
            size = os.fstat(self._fd).st_size
            if size and size == seen:
                return os.pread(self._fd, size, 0).decode("utf-8", "replace")
            seen = size
        return ""


def catches(pid: int, number: int) -> bool:
    """Whether the process has a handler of its own for the signal (proc(5), SigCgt)."""
    if not LINUX:
        return False
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def kernel_says(pid: int) -> dict[str, Any]:
    """The process's state, what it waits in, and its CPU time so far; what is not to be known is left out."""
    told: dict[str, Any] = {}
    state = process_state(pid)
    if state is not None:
        told |= {"process_state": state.letter, "cpu_ms": state.cpu_ms}
    with contextlib.suppress(OSError):
        waits_in = Path(f"/proc/{pid}/wchan").read_text().strip()
        if waits_in not in ("", "0"):
            told["waits_in"] = waits_in
    return told
