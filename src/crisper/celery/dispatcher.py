"""A thread that hands requests to a pool whose `apply_async` blocks while it is full."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from crisper.celery.held import Held


class Dispatcher(threading.Thread):
    """For workers without an event loop: the thread that consumes must not wait for the pool."""

    def __init__(self, run: Callable[[Held], None], wait_for_room: Callable[[], None]) -> None:
        super().__init__(name="crisper-dispatch", daemon=True)
        self._run_granted, self._wait_for_room = run, wait_for_room
        self._queue: queue.Queue[Held] = queue.Queue()
        self.put = self._queue.put

    def run(self) -> None:
        while True:
            held = self._queue.get()
            self._wait_for_room()
            self._run_granted(held)
