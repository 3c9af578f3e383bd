"""What a process can know of another on the same host, from the kernel and not by guess."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from crisper.engine.running import Seen

LINUX = sys.platform == "linux"
_PAGE = os.sysconf("SC_PAGE_SIZE")


def process_start(pid: int) -> int | None:
    """When the process began, in clock ticks since boot; None if there is no such process.

    `(boot id, pid, start)` names a process for ever: pids are used again,
    starts are not. Field 22 of /proc/<pid>/stat (proc(5)). A zombie is gone.
    None also where we may not look: `is_gone` tells the two apart.
    """
    if not LINUX:
        return _process_start_elsewhere(pid)
    fields = _stat(pid)
    return None if fields is None or fields[0] in _ENDED else int(fields[19])


_ENDED = (b"Z", b"X")


def _stat(pid: int) -> list[bytes] | None:
    """Fields 3 and on of /proc/<pid>/stat."""
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        return stat[stat.rindex(b")") + 2 :].split()
    return None


class ProcessState(NamedTuple):
    letter: str  # R, S, D, T and others: proc(5)
    cpu_ms: int  # spent so far, by it and not by its children


def process_state(pid: int) -> ProcessState | None:
    """None if there is no such process, or no /proc."""
    fields = _stat(pid) if LINUX else None
    if fields is None:
        return None
    ticks = int(fields[11]) + int(fields[12])
    return ProcessState(fields[0].decode(), ticks * 1000 // os.sysconf("SC_CLK_TCK"))


def is_gone(pid: int, start: int) -> bool | None:
    """Whether that very process has ended; None if this cannot be told from here.

    A file that is missing from /proc proves nothing: `hidepid` hides the
    processes of other users. That there is no such pid, kill(2) says to anybody.
    """
    if not pid or not start:
        return None
    fields = _stat(pid) if LINUX else None
    if fields is not None:
        return fields[0] in _ENDED or int(fields[19]) != start
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return None
    return None


def look_at(pid: int, start: int) -> Seen:
    """Whether that very process has ended, and its resident memory (proc(5), stat, fields 22 and 24)."""
    fields = _stat(pid) if LINUX and start else None
    if fields is None:
        return Seen(is_gone(pid, start))
    if fields[0] in _ENDED or int(fields[19]) != start:
        return Seen(True)
    return Seen(False, int(fields[21]) * _PAGE)


def _process_start_elsewhere(pid: int) -> int | None:
    listed = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    try:
        return int(time.mktime(time.strptime(listed.stdout.strip())))
    except ValueError:
        return None


def is_stopped(pid: int) -> bool:
    """Whether the process is stopped by a signal or a debugger (state T or t)."""
    with contextlib.suppress(OSError, ValueError):
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        return stat[stat.rindex(b")") + 2 :][:1] in (b"T", b"t")
    return False


def boot_id() -> str:
    """Names this boot of this kernel; empty where the system does not tell."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def pid_namespace() -> str:
    """Names the namespace in which our pids mean something."""
    with contextlib.suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return socket.gethostname()


class Process:
    """Another process, held by a pidfd where the kernel has them, else by pid and start."""

    def __init__(self, pid: int, start: int | None) -> None:
        self.pid, self.start = pid, start
        self._fd: int | None = None
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                self._fd = os.pidfd_open(pid)
        if start is not None and process_start(pid) != start:
            self.close()  # the pid is somebody else's by now

    def fileno(self) -> int:
        """Readable once the process is gone; -1 where there are no pidfds."""
        return -1 if self._fd is None else self._fd

    def is_alive(self) -> bool:
        if self._fd is not None:
            return not select.select([self._fd], [], [], 0)[0]
        now = process_start(self.pid)
        return now is not None and self.start is not None and now == self.start

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signal exactly this process; nothing if it is gone."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._fd is not None and hasattr(signal, "pidfd_send_signal"):
                signal.pidfd_send_signal(self._fd, number)
            elif self.is_alive():
                os.kill(self.pid, number)

    def wait(self, seconds: float) -> bool:
        """Whether it was gone within that time."""
        give_up = time.monotonic() + seconds
        while self.is_alive():
            left = give_up - time.monotonic()
            if left <= 0:
                return False
            if self._fd is not None:
                select.select([self._fd], [], [], left)
            else:
                time.sleep(min(0.02, left))
        return True

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
