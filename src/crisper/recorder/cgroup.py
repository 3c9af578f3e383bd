"""What the kernel tells of a control group's memory: its limit, and how often it killed for it.

Version 2 (the kernel's Documentation/admin-guide/cgroup-v2.rst): `memory.events` counts what happened in the
group and below it, whoever's limit was hit; limits are those of the group and of all above it. Version 1:
`oom_kill` in `memory.oom_control`, since Linux 4.13.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

#: More than any machine has: version 1 says "no limit" by a number close to 2**63.
_NO_LIMIT = 2**60


class Cgroup:
    """One group, as its folder shows it."""

    def __init__(self, folder: Path, top: Path, *, version: int) -> None:
        self._folder, self._top, self._version = folder, top, version

    def kills(self) -> int | None:
        """How many processes of it were killed for memory so far; None where that is not told."""
        file = "memory.events" if self._version == 2 else "memory.oom_control"
        with contextlib.suppress(OSError, ValueError):
            for line in (self._folder / file).read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
        return None

    def limit(self) -> int | None:
        """Bytes that all its processes may take together; None if as much as there is."""
        file = "memory.max" if self._version == 2 else "memory.limit_in_bytes"
        limits = [self._number(folder / file) for folder in (self._folder, *self._folder.parents)
                  if folder.is_relative_to(self._top)]  # fmt: skip
        return min((limit for limit in limits if limit is not None), default=None)

    def _number(self, file: Path) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            number = int(file.read_text())  # not `max`
            return number if number < _NO_LIMIT else None
        return None


def own_cgroup(told: Path = Path("/proc/self/cgroup"), top: Path = Path("/sys/fs/cgroup")) -> Cgroup | None:
    """The group that this process is in; None where there are none, or none for memory."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = told.read_text().splitlines()
    paths = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    if "memory" in paths and (top / "memory").is_dir():
        return Cgroup(_folder(top / "memory", paths["memory"]), top / "memory", version=1)
    if "" in paths and (top / "cgroup.controllers").exists():
        return Cgroup(_folder(top, paths[""]), top, version=2)
    return None


def _folder(top: Path, path: str) -> Path:
    """In a container the path may be the host's, and what is mounted is the group itself."""
    folder = top / path.lstrip("/")
    return folder if ".." not in folder.parts and folder.is_dir() else top
