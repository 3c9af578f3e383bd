"""A deadline of the client's own on calls to others: on every one to the registry.

A black-holed reply hangs a driver for ever, and a server's own timeouts do not
fire while it is stopped or after its clock stepped back. So a watchdog thread
shuts the socket under a call that is overdue; the call then fails at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from crisper.store.database import Abortable


class Watchdog:
    """Watches the calls of any number of threads, until it is stopped. Seconds throughout."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._calls: dict[int, tuple[float, Abortable]] = {}
        self._wake = threading.Event()
        threading.Thread(target=self._watch, name="crisper-deadline", daemon=True).start()

    @contextmanager
    def call(self, store: Abortable) -> Iterator[None]:
        me = threading.get_ident()
        self._calls[me] = (time.monotonic() + self._limit, store)
        try:
            yield
        finally:
            self._calls.pop(me, None)

    def _watch(self) -> None:
        while not self._wake.wait(min(0.25, self._limit / 4)):
            now = time.monotonic()
            for thread, (due, store) in list(self._calls.items()):
                if now > due:
                    self._calls.pop(thread, None)  # once: the call is failing now
                    store.abort()

    def stop(self) -> None:
        self._wake.set()

    def __enter__(self) -> Watchdog:
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()


@contextmanager
def hang_up_after(seconds: float, hang_up: Callable[[], None]) -> Iterator[None]:
    """For a single call. What `hang_up` raises means that there was nothing left to hang up."""

    def late() -> None:
        with suppress(Exception):
            hang_up()

    timer = threading.Timer(seconds, late)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
