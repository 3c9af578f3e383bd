"""An answer to a pool child that waits, on the socket that came with its datagram."""

from __future__ import annotations

import contextlib
import os
import socket
from array import array
from collections.abc import Sequence

#: For the one descriptor that a datagram may bring.
ANCILLARY = socket.CMSG_SPACE(array("i").itemsize)


def descriptor(ancillary: Sequence[tuple[int, int, bytes]]) -> int:
    """The descriptor that came with a datagram; -1 if none did."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            return int(array("i", data[: array("i").itemsize])[0])
    return -1


class Reply:
    """Answered once, or closed: then whoever waits asks again."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __call__(self, word: str) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.set_blocking(fd, False)
                os.write(fd, word.encode())
            os.close(fd)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
