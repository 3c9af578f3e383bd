"""A cold shutdown (SIGQUIT, or SIGTERM where REMAP_SIGTERM says so) in a turn of the loop of its own.

Celery shuts down cold from within the signal's handler (celery/apps/worker.py, on_cold_shutdown): it speaks
to the broker and joins the pool in the midst of whatever the loop was about. If that was writing a frame to
RabbitMQ, it waits for ever for amqp's lock, which the interrupted write holds; if it was reading one, the
answer that it waits for begins in the middle. Such a worker stands still, and holds on to all it was sent.
Celery's warm shutdown lost its like in 5.2.4 (celery #7339).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from celery.worker.loops import asynloop

SIGNALS = (signal.SIGTERM, signal.SIGQUIT)

#: A loop that is not back by then stands, and then Celery's way is the only one left.
LOOP_SECONDS = 2.0


class ColdShutdown:
    """Owned by the main thread; `hurry` is for the keeper's."""

    def __init__(self, wake_loop: Callable[[], None]) -> None:
        self._wake_loop = wake_loop
        self._handlers: dict[int, Any] = {}
        self._waiting: dict[int, float] = {}

    def wrap(self) -> None:
        """Celery's own handlers, where they are installed. Called for every start of the loop."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if getattr(handler, "__name__", "") == "worker_Cold":
                self._handlers[number] = handler
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """A signal that comes again, from an operator or from `hurry`, waits no more."""
        if number in self._waiting or not _is_in_loop(frame):
            self._waiting.pop(number, None)
            self._handlers[number](number, frame)
        else:
            self._waiting[number] = time.monotonic()
            self._wake_loop()

    def woken(self) -> None:
        """In the loop, between two of its callbacks."""
        for number in tuple(self._waiting):
            del self._waiting[number]
            self._handlers[number](number, None)

    def hurry(self) -> None:
        """Once a second: what the loop has not come to."""
        for number, since in tuple(self._waiting.items()):
            if time.monotonic() - since > LOOP_SECONDS:
                os.kill(os.getpid(), number)


def _is_in_loop(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code is asynloop.__code__:
            return True
        frame = frame.f_back
    return False
