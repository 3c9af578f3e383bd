"""A connection beside the consumer's, which may be what is broken: how much waits in this worker's queues.

It is kept from one look to the next, so that an idle worker costs its broker a question, and no login.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from amqp.exceptions import NotFound
from kombu.transport.virtual import Channel as VirtualChannel

CONNECT_SECONDS = 5.0
#: A connection that answers no sooner is given up: another one is tried at once.
ANSWER_SECONDS = 2.0
PATIENCE = {"max_retries": 1, "timeout": CONNECT_SECONDS, "reraise_as_library_errors": False}


class Lookout:
    """Owned by the thread that looks."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._connection: Any = None

    def waiting(self, queues: list[Any]) -> dict[str, int] | None:
        """Messages in each that are this worker's to take; None if the broker cannot be reached, or does
        not say."""
        for connection in self._connections():
            try:
                with _in_time(connection):
                    connection.ensure_connection(**PATIENCE)
                    channel = connection.default_channel
                    return {str(queue.name): size_of(queue, channel) for queue in queues} or _hears(channel)
            except (*connection.connection_errors, *connection.channel_errors):
                self.close()
        return None

    def _connections(self) -> Iterator[Any]:
        """The one that is kept, and a new one if that does not do."""
        if self._connection is not None:
            yield self._connection
        connection = self._connection = self._app.connection_for_read(connect_timeout=CONNECT_SECONDS)
        if connection.transport.driver_type == "redis":
            own = {"socket_timeout": ANSWER_SECONDS}
            connection.transport_options = {**connection.transport_options, **own}
        yield connection

    def is_locked(self, queue: str) -> bool:
        """Whether RabbitMQ keeps it for another connection, which it takes for alive; also if it cannot be
        asked."""
        connection = next(self._connections())
        try:
            with _in_time(connection):
                connection.ensure_connection(**PATIENCE)
                connection.default_channel.queue_declare(queue=queue, passive=True)
        except NotFound:
            return False
        except (*connection.connection_errors, *connection.channel_errors):
            return True
        finally:
            self.close()  # its channel, at least, is closed by such an answer
        return False

    def close(self) -> None:
        """Without a word to the broker, which may not answer."""
        connection, self._connection = self._connection, None
        if connection is not None:
            break_off(connection)
            with suppress(Exception):
                connection.close()


def size_of(queue: Any, channel: Any) -> int:
    """Messages that wait in it, of all its priorities, and that this worker should take."""
    if isinstance(channel, VirtualChannel):
        return int(channel._size(queue.name))
    told = channel.queue_declare(queue=queue.name, passive=True)
    one_takes_all = (queue.queue_arguments or {}).get("x-single-active-consumer")
    # Which of several that is, RabbitMQ does not tell: the others wait by right, however busy it is.
    return 0 if one_takes_all and told.consumer_count > 1 else int(told.message_count)


def _hears(channel: Any) -> dict[str, int]:
    """Nothing is asked of any queue, but that the broker answers."""
    if isinstance(channel, VirtualChannel):
        channel._size("crisper-none")
    else:
        channel.flow(True)
    return {}


@contextmanager
def _in_time(connection: Any) -> Iterator[None]:
    """What waits for longer finds its connection broken off, and again what it waits for instead."""
    answered = threading.Event()

    def watch() -> None:
        while not answered.wait(ANSWER_SECONDS):
            break_off(connection)

    threading.Thread(target=watch, name="crisper-silence-limit", daemon=True).start()
    try:
        yield
    finally:
        answered.set()


def break_off(connection: Any) -> None:
    """Whoever waits for it, even to close it, finds it closed. From any thread."""
    for sock in list(sockets_of(connection)):
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def sockets_of(connection: Any) -> Iterator[Any]:
    """What a connection of kombu's speaks over."""
    inner = getattr(connection, "_connection", None)
    yield from filter(None, [getattr(inner, "sock", None)])
    for channel in getattr(inner, "channels", None) or ():
        if isinstance(channel, VirtualChannel):
            yield from _of_redis(channel.__dict__)


def _of_redis(channel: dict[str, Any]) -> Iterable[Any]:
    for pool in filter(None, (channel.get("_pool"), channel.get("_async_pool"))):
        for one in {*pool._in_use_connections, *pool._available_connections}:
            yield from filter(None, [getattr(one, "_sock", None)])
