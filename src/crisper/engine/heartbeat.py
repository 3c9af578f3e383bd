"""The heartbeat: renewing an incarnation's lease, and how long to believe in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum

from crisper.core.lease import trust_window
from crisper.core.model import Fence, Pulse
from crisper.store.base import Store


class Beat(StrEnum):
    RENEWED = "renewed"
    WITHHELD = "withheld"  # the parent is stopped: its lease must run out
    FENCED = "fenced"


def boottime() -> float:
    """Seconds on a clock that also counts while the machine is suspended, where there is one."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


class Heartbeat:
    """One pass: look at the parent, renew, learn whether we are fenced."""

    def __init__(
        self,
        store: Store,
        fence: Fence,
        *,
        lease: float,
        interval: float,
        parent_stopped: Callable[[], bool],
        pulse: Callable[[], Pulse],
        clock: Callable[[], float] = boottime,
    ) -> None:
        self.fence = fence
        self._store, self._clock = store, clock
        self._window = trust_window(lease, interval)
        self._parent_stopped, self._pulse = parent_stopped, pulse
        self._trusted_until = float("-inf")  # taking a fence over renews nothing

    def tick(self) -> Beat:
        """Raises `RegistryUnreachable`; the lease then goes on running out."""
        if self._parent_stopped():
            return Beat.WITHHELD
        sent = self._clock()  # before the renewal leaves: the lease cannot begin later than that
        if not self._store.renew(self.fence, self._pulse()):
            return Beat.FENCED
        self._trusted_until = sent + self._window
        return Beat.RENEWED

    def trusted(self) -> bool:
        """Whether the incarnation itself may still believe in its lease."""
        return self._clock() < self._trusted_until
