"""What falls to the elected sweeper besides, wherever it runs: the registry's clock is watched, and what is
old is forgotten."""

from __future__ import annotations

from collections.abc import Callable

from crisper.engine.clockwatch import ClockWatch
from crisper.engine.heartbeat import boottime
from crisper.engine.pruner import Pruner, Retention
from crisper.store.base import Store


class Elected:
    """One turn is `tick`, after each pass of its sweeper. `retention`: see `Pruner`. `clock`: seconds that
    cannot step."""

    def __init__(
        self,
        store: Store,
        retention: Retention | None,
        *,
        warn: Callable[[str], None] = lambda sentence: None,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._watch, self._pruner, self._warn = ClockWatch(store, clock), Pruner(store, retention), warn

    def tick(self, now: float, *, leads: bool) -> None:
        """`now`: seconds of the caller's monotonic clock. Raises `RegistryUnreachable`."""
        if not leads:
            self._watch.forget()
            return
        if step := self._watch.tick():
            sentence = f"the registry's clock was put {'forward' if step > 0 else 'back'} by {abs(step)} ms;"
            self._warn(f"{sentence} what waits by it waits on as it did")
        self._pruner.tick(now)
