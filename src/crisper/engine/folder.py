"""The folder of journals on a host's disk: who may open which, and what the dead have left."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from crisper.errors import JournalUnusable

SUFFIX = ".journal"


class DiskFile:
    """`crisper.engine.journal.File` on a real disk, locked for this process."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path, self._fd = path, fd

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def read(self, at: int, count: int) -> bytes:
        return os.pread(self._fd, count, at)

    def write(self, at: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, at)
            at, view = at + written, view[written:]

    def sync(self) -> None:
        getattr(os, "fdatasync", os.fsync)(self._fd)

    def reserve(self, size: int) -> None:
        have = self.size()
        if size <= have:
            return
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._fd, have, size - have)
        else:
            self.write(have, bytes(size - have))

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def is_lost(self) -> bool:
        try:
            there, here = self.path.stat(), os.fstat(self._fd)
        except FileNotFoundError:
            return True
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)

    def restore(self) -> None:
        """A new file in its place, with all that was in the old one, which we still hold open."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        fd = os.open(self.path, _FLAGS | os.O_EXCL, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            old, self._fd = self._fd, fd
        except OSError:
            os.close(fd)
            raise
        try:
            at = 0
            while chunk := os.pread(old, 1 << 20, at):
                self.write(at, chunk)
                at += len(chunk)
            self.sync()
            sync_folder(self.path.parent)
        except OSError:
            self._fd = old
            os.close(fd)
            raise
        os.close(old)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._fd)


_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)


def open_file(path: Path) -> DiskFile | None:
    """The file, made if it is not there; None if another process has it open.

    Raises `JournalUnusable` where it cannot be made, read or written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, _FLAGS, 0o600)
    except OSError as exc:
        raise JournalUnusable(
            f"the journal {path} cannot be opened: {exc.strerror}. Set crisper_journal_dir to a folder that"
            " the user who runs the worker may write to"
        ) from exc
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_nlink == 0:  # whoever had it has just finished with it
            os.close(fd)
            return None
        sync_folder(path.parent)
    except OSError:
        os.close(fd)
        return None
    return DiskFile(path, fd)


def own_file(folder: Path, name: str) -> DiskFile:
    """A file of this name; another of the same name if a process that hangs still has the first."""
    for number in range(100):
        file = open_file(folder / f"{name}{f'-{number}' if number else ''}{SUFFIX}")
        if file is not None:
            return file
    raise JournalUnusable(f"every journal {folder / name}* is in use by another process")


def journals(folder: Path, pattern: str = f"*{SUFFIX}") -> list[Path]:
    """All there are, the oldest first."""
    found = []
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):
            found.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(found)]


def sync_folder(folder: Path) -> None:
    """A file's name is safe once its folder is."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
