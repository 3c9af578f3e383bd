"""Whether the broker says anything on the consumer's own connection, when it is asked. RabbitMQ only.

What RabbitMQ has sent into a connection that is broken waits in no queue, so no queue's length tells; its
heartbeats would tell after minutes. Redis is asked by its consumer all the time, and gives nothing unasked.
"""

from __future__ import annotations

from typing import Any

from amqp import spec

from crisper.celery.link import monotonic_ms


class Hearing:
    """`ask` on the loop's thread, once a second; `deaf_for` from any thread."""

    def __init__(self, every_ms: int) -> None:
        self._every_ms = every_ms
        #: The connection that was asked, what it had said by then (in frames), and when that was.
        self._asked: tuple[Any, int, int] = (None, 0, 0)

    def ask(self, worker: Any) -> None:
        """By the one method that asks for nothing (Channel.Flow, as it is), and without waiting here."""
        channel = _channel_of(worker)
        if channel is None:
            return
        inner, now = channel.connection, monotonic_ms()
        asked, said, at = self._asked
        if inner is asked and (inner.bytes_recv == said or now - at < self._every_ms):
            return
        self._asked = inner, inner.bytes_recv, now
        channel.send_method(spec.Channel.Flow, "b", (True,))

    def deaf_for(self, worker: Any) -> int:
        """Milliseconds since this connection was asked, if it has said nothing since; else 0."""
        channel = _channel_of(worker)
        asked, said, at = self._asked
        if channel is None or channel.connection is not asked or asked.bytes_recv != said:
            return 0
        return monotonic_ms() - at


def _channel_of(worker: Any) -> Any:
    """Of the consumer, while it is connected to a RabbitMQ."""
    consumer = worker.consumer
    channel = getattr(getattr(consumer, "task_consumer", None), "channel", None)
    inner: Any = getattr(channel, "connection", None)
    if not hasattr(inner, "bytes_recv") or consumer.connection is None:
        return None
    return channel if getattr(channel, "is_open", False) and inner.connected else None
