"""A worker's sign of life: a small file that its recorder writes anew every second, for `crisper-probe`.

The probe has milliseconds, so nothing is imported here that costs one: a line per field, `name=value`.
Times are milliseconds of the host's monotonic clock, which all its processes share.
"""

from __future__ import annotations

import os
import time

#: The probe reads it too: app.conf is behind an import of the whole app.
VARIABLE = "CRISPER_PROBE_DIR"
SUFFIX = ".sign"
#: What a dead worker left is swept away after that; a live one's is written anew.
FORGOTTEN_SECONDS = 3600.0
MOST_BYTES = 65_536


class Sign:
    """What a recorder says of its worker."""

    __slots__ = (
        "at",
        "consumes",
        "pid",
        "pid_namespace",
        "pid_start",
        "records",
        "stands",
        "stood_at",
        "ticked",
        "turned",
        "why",
        "worker",
    )

    def __init__(
        self,
        worker: str,
        pid: int,
        pid_start: int,
        pid_namespace: str,
        at: int,
        turned: int,  # the recorder's own loop
        ticked: int,  # the parent's loop; since the recorder began, if it has not yet
        stands: str = "",  # why the parent's loop stands still: task, broker, shutdown
        stood_at: int = 0,  # when the parent said so
        records: str = "",  # where: registry or journal
        consumes: bool = False,
        why: str = "",  # it does not record
    ) -> None:
        self.worker, self.pid, self.pid_start, self.pid_namespace = worker, pid, pid_start, pid_namespace
        self.at, self.turned, self.ticked = at, turned, ticked
        self.stands, self.stood_at = stands, stood_at
        self.records, self.consumes, self.why = records, consumes, why


def now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def default_folder() -> str:
    """On a file system in memory where there is one: of this user, of this boot."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        return f"{runtime}/crisper"
    return f"{os.environ.get('TMPDIR', '').rstrip('/') or '/tmp'}/crisper-{os.getuid()}"


def make_folder(folder: str) -> None:
    """Raises `OSError` where it cannot be made, or where somebody else could write into it."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    found = os.lstat(folder)
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} does not belong to this user alone")


def write(folder: str, name: str, sign: Sign) -> None:
    """All of it or nothing: a reader never sees half. Raises `OSError`."""
    lines = [f"{field}={_line(getattr(sign, field))}\n" for field in Sign.__slots__]
    path = f"{folder}/{name}{SUFFIX}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
    fd = os.open(f"{path}.new", flags, 0o600)
    try:
        os.write(fd, "".join(lines).encode("utf-8", "backslashreplace"))
    finally:
        os.close(fd)
    os.rename(f"{path}.new", path)


def _line(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(str(value).splitlines())[:4000]


def remove(folder: str, name: str) -> None:
    for suffix in (SUFFIX, f"{SUFFIX}.new"):
        _unlink(f"{folder}/{name}{suffix}")


def forget_old(folder: str) -> None:
    """What nobody has written for an hour. Raises `OSError`."""
    before = time.time() - FORGOTTEN_SECONDS
    for name in os.listdir(folder):
        path = f"{folder}/{name}"
        if name.endswith((SUFFIX, f"{SUFFIX}.new")) and os.lstat(path).st_mtime < before:
            _unlink(path)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # it was never written, or the folder is gone


def read(folder: str) -> list[Sign]:
    """Every whole sign in the folder. Raises `OSError` where there is no such folder, or it is not ours."""
    signs = []
    for name in sorted(os.listdir(folder)):
        if name.endswith(SUFFIX):
            sign = _read(f"{folder}/{name}")
            if sign is not None:
                signs.append(sign)
    return signs


def _read(path: str) -> Sign | None:
    """None for what is no sign, or was taken away meanwhile."""
    try:
        with open(path, "rb") as file:
            text = file.read(MOST_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return None
    fields = {}
    for line in text.split("\n"):
        name, _, value = line.partition("=")
        fields[name] = value
    try:
        return Sign(
            worker=fields["worker"],
            pid=int(fields["pid"]),
            pid_start=int(fields["pid_start"]),
            pid_namespace=fields["pid_namespace"],
            at=int(fields["at"]),
            turned=int(fields["turned"]),
            ticked=int(fields["ticked"]),
            stands=fields["stands"],
            stood_at=int(fields["stood_at"]),
            records=fields["records"],
            consumes=fields["consumes"] == "yes",
            why=fields["why"],
        )
    except (KeyError, ValueError):
        return None
