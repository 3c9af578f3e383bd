"""What this host tells, without writing anything to it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from crisper.engine.doctor.facts import Host, Journal
from crisper.settings import Settings

MOUNTS = Path("/proc/self/mountinfo")


def ask(settings: Settings, grace: float | None) -> Host:
    """Raises `OSError`."""
    folder = settings.journals.absolute()
    there = _nearest(folder)
    room = os.statvfs(there)
    writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK) and not room.f_flag & os.ST_RDONLY
    return Host(
        name=socket.gethostname(),
        journal=Journal(str(folder), writable, room.f_bavail * room.f_frsize, _filesystem(there)),
        grace=grace,
    )


def _nearest(folder: Path) -> Path:
    """The folder, or that in which it would be made."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def _filesystem(path: Path) -> str:
    """The type of what is mounted there; empty where the system does not tell."""
    try:
        lines = MOUNTS.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    where, best = path.resolve(), ("", "")
    for line in lines:
        mount, _, kind = line.partition(" - ")
        point = mount.split()[4].encode().decode("unicode_escape")
        if where.is_relative_to(point) and len(point) >= len(best[0]):
            best = point, kind.split()[0]
    return best[1]
