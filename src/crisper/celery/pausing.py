"""Taking no more messages while the registry is away, and coming back by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.utils.log import get_logger

logger = get_logger(__name__)


class Pausing:
    """Stops and starts the worker's consumer, on the thread that owns its connection.

    Prefetched messages stay where they are; what the broker still has stays there.
    """

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._why = ""
        self._cancelled: Any = None  # the consumer that we cancelled; a new connection brings a new one

    @property
    def why(self) -> str:
        """Why the worker takes no more; empty: it does."""
        return self._why

    def say(self, why: str) -> None:
        """From now on pause for this reason; empty: go on."""
        if why and not self._why:
            logger.error("crisper: this worker takes no more messages for now: %s", why)
        elif self._why and not why:
            logger.warning("crisper: this worker takes messages again")
        self._why = why
        self.enforce()

    def enforce(self) -> None:
        """Once a second too: a new connection consumes until it is told not to."""
        consumer = getattr(self._worker.consumer, "task_consumer", None)
        if consumer is None:
            return
        if self._why and self._cancelled is not consumer:
            self._cancelled = consumer
            self._on_loop(lambda: self._cancel(consumer))
        elif not self._why and self._cancelled is not None:
            again, self._cancelled = self._cancelled is consumer, None
            if again:
                self._on_loop(lambda: self._consume(consumer))

    def _cancel(self, consumer: Any) -> None:
        if self._cancelled is consumer:
            consumer.cancel()

    def _consume(self, consumer: Any) -> None:
        if not self._why and consumer is self._worker.consumer.task_consumer:
            consumer.consume()

    def _on_loop(self, call: Callable[[], None]) -> None:
        self._worker.consumer.call_soon(call)
