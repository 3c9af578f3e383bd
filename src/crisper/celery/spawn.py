"""Starting a recorder: one `posix_spawn`, no fork of the worker's state.

`posix_spawn` is a plain system call that no monkey patching touches and that is
safe beside threads. The recorder gets four descriptors and a session of its
own: a signal for the worker's process group must not reach it before it has
seen how the worker ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import crisper
from crisper.celery.stacks import StackFile
from crisper.recorder.wire import ALIVE_FD, STACKS_FD, WIRE_FD, WORDS_FD

#: One turn of a busy loop's records, and one large message, fit without waiting.
SOCKET_BYTES = 4 * 2**20


class Sockets:
    """The children's datagrams, and stacks: one of each for the worker's whole life, whatever recorder reads
    it."""

    def __init__(self) -> None:
        self.words_read, self.words_write = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.words_write.setblocking(False)
        self.stacks = StackFile()


class RecorderProcess:
    """A started recorder, as its parent holds it."""

    def __init__(self, node: str, sockets: Sockets) -> None:
        self.wire, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        for end in (self.wire, theirs):
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, option, SOCKET_BYTES)
        self.wire.setblocking(False)
        self.alive_read, alive_write = os.pipe()
        given = {
            WIRE_FD: theirs.fileno(),
            WORDS_FD: sockets.words_read.fileno(),
            ALIVE_FD: alive_write,
            STACKS_FD: sockets.stacks.fd,
        }
        try:
            self.pid = _spawn(node, given)
        finally:
            theirs.close()
            os.close(alive_write)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def reap(self) -> None:
        """Collect it, so that no zombie stays; billiard may have done so already."""
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self.pid, os.WEXITED)

    def close(self) -> None:
        self.wire.close()
        with contextlib.suppress(OSError):
            os.close(self.alive_read)


def _spawn(node: str, given: dict[int, int]) -> int:
    environment = dict(os.environ)
    package = str(Path(crisper.__file__).resolve().parents[1])
    path = [package, *environment.get("PYTHONPATH", "").split(os.pathsep)]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    # dup2 clears the close-on-exec flag, which everything else of ours keeps. A first
    # pass moves the descriptors out of each other's way.
    high = {target: os.dup(source) for target, source in given.items()}
    moved = {target: _above(fd, max(given)) for target, fd in high.items()}
    actions: list[Any] = [(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in moved.items()]
    actions.append((os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0))
    actions.append((os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0))
    command = [sys.executable, "-P", "-m", "crisper.recorder", node]
    try:
        return _start(command, environment, actions)
    finally:
        for fd in moved.values():
            os.close(fd)


def _start(command: list[str], environment: dict[str, str], actions: list[Any]) -> int:
    reset = [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1]
    try:
        return os.posix_spawn(
            command[0], command, environment, file_actions=actions, setsid=True, setsigdef=reset
        )
    except NotImplementedError:  # a libc without POSIX_SPAWN_SETSID
        return os.posix_spawn(
            command[0], command, environment, file_actions=actions, setpgroup=0, setsigdef=reset
        )


def _above(fd: int, lowest: int) -> int:
    """The descriptor, moved to a number above `lowest`."""
    lower = []
    while fd <= lowest:
        lower.append(fd)
        fd = os.dup(fd)
    for one in lower:
        os.close(one)
    return fd
