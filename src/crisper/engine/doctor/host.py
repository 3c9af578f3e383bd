"""What this host tells, without writing anything to it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from crisper.engine.doctor.facts import Host, Journal, ToBe
from crisper.settings import Settings
from crisper.store.open import sqlite_path

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


def to_be(url: str) -> ToBe:
    """Of SQLite's URL. Raises `OSError`."""
    path = sqlite_path(url).absolute()
    places = [path, path.parent] if path.exists() else [_nearest(path.parent)]
    writable = places[-1].is_dir() and all(os.access(place, os.W_OK) for place in places)
    return ToBe(str(path), writable and not os.statvfs(places[-1]).f_flag & os.ST_RDONLY)


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
