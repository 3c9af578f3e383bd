"""When an attempt that runs is stalled: no progress, beyond its time limit, far beyond the usual. Pure."""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import Any, NamedTuple

#: Beyond its time limit for so long, nobody enforces it (Celery does in prefork pools only).
LIMIT_GRACE_MS = 10_000
#: What is usual is known from so many of the latest bodies of a name, and from so many at least.
LATEST, ENOUGH = 200, 20
#: Nothing shorter is far beyond the usual.
LEAST_MS = 60_000


class Long(NamedTuple):
    """An attempt that has run for longer than some bound of its own. Times are milliseconds; 0: no bound."""

    seq: int  # of its claim
    number: int
    task_id: str
    name: str
    pid: int  # of the process that runs it
    age: int  # since it began
    stall_after: int
    limit: int  # its hard time limit, else its soft one
    usual: int  # beyond which it is far beyond the usual time of its name
    on_stalled: str
    why_not: str  # it cannot be stopped: why; empty: it can
    stack: str  # where its parent could tell


class Stalled(NamedTuple):
    since: int  # age at which it stalled
    sentence: str


def judge(one: Long, quiet: int | None) -> Stalled | None:
    """`quiet`: milliseconds since it last said how far it is; None if it never has."""
    still = one.age if quiet is None else min(quiet, one.age)
    if one.stall_after and still >= one.stall_after:
        said = f"no progress for {_seconds(still)}"
        return Stalled(one.age - still, said if quiet is not None else f"{said}, since it began")
    if one.limit and one.age >= one.limit + LIMIT_GRACE_MS:
        return Stalled(0, f"it has run for {_seconds(one.age)}, and its time limit is {_seconds(one.limit)}")
    if one.usual and one.age >= one.usual:
        beyond = f"far beyond the usual of {one.name} ({_seconds(one.usual)})"
        return Stalled(0, f"it has run for {_seconds(one.age)}, {beyond}")
    return None


def is_long(age: int, stall_after: int, limit: int, usual: int) -> bool:
    """Whether it is worth asking how far it is."""
    bounds = [stall_after, limit + LIMIT_GRACE_MS if limit else 0, usual]
    return any(bound and age >= bound for bound in bounds)


def sentence(stalled: Stalled, where: str, evidence: dict[str, Any]) -> str:
    """What people read."""
    busy = {"R": "computes", "S": "waits", "D": "waits in the kernel", "T": "is stopped"}
    does = busy.get(str(evidence.get("process_state")), "")
    if evidence.get("cpu_share", 0) > 0.5:
        does = "computes"
    place = " and ".join(filter(None, [does and f"its process {does}", where and f"stands at {where}"]))
    return f"{stalled.sentence}{f': {place}' if place else ''}"


def _seconds(ms: int) -> str:
    return f"{ms / 1000:.0f} s" if ms >= 10_000 else f"{ms / 1000:.1f} s"


class Usual:
    """How long the bodies of each name take: `factor` times the median of the latest is far beyond it.

    The median moves only if half of them do, so that stalled ones do not become the usual.
    """

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._times: dict[str, deque[float]] = {}

    def ran(self, name: str, seconds: float) -> None:
        times = self._times.get(name)
        if times is None:
            times = self._times[name] = deque(maxlen=LATEST)
        times.append(seconds)

    def beyond(self, name: str) -> int:
        """Milliseconds; 0 while too few are known."""
        times = self._times.get(name, ())
        if len(times) < ENOUGH:
            return 0
        return max(LEAST_MS, int(self._factor * median(list(times)) * 1000))
