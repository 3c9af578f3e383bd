"""Whether this worker takes what waits in its queues: after a reconnect it may not, and nothing says so
(celery #8091, #9220, #10302).

A thread of its own, with a connection of its own for each look: the consumer's may be what is broken. Only an
idle worker looks, a few times a minute.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from kombu.transport.virtual import Channel as VirtualChannel

from crisper.celery.deliveries import Deliveries
from crisper.celery.link import monotonic_ms
from crisper.celery.standing import BROKER, is_consuming, why_it_stands
from crisper.engine.silent import LOOKS, Idle, SilenceWatch, Silent, sentence
from crisper.recorder import wire
from crisper.settings import Settings

#: Brokers that tell how many messages wait in a queue.
TELL = ("redis", "amqp", "filesystem")
CONNECT_SECONDS = 5.0
#: A loop that has not ticked for so long is not idle: it stands, or it is wedged.
TICKS_MS = 3000


class Silence:
    """`start` and `stop` on the loop's thread."""

    def __init__(self, worker: Any, deliveries: Deliveries, settings: Settings) -> None:
        self.on_error: Callable[[str], None] = lambda doing: None
        self._worker, self._deliveries, self._after = worker, deliveries, settings.silent_after
        self._reconnects = settings.on_silent == "reconnect"
        self._watch = SilenceWatch(int(self._after * 1000))
        self._life: tuple[int, int] = (0, 0)
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._said = False

    def start(self, connection: Any) -> None:
        """For the broker that the consumer is connected to, if it can be asked."""
        if self._thread is None and connection.transport.driver_type in TELL:
            self._thread = threading.Thread(target=self._run, name="crisper-silence", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._after / LOOKS):
            try:
                self._tell(self._watch.look(self._look()))
            except Exception:
                self.on_error("looking at whether messages wait")

    def _tell(self, silent: Silent | None) -> None:
        """Once when it begins, and once when it is over."""
        if (silent is not None) == self._said:
            return
        now = monotonic_ms()
        self._said = silent is not None
        about = (0, "", "", 0) if silent is None else (silent.since, sentence(silent, now), *silent[1:])
        self._deliveries.link.send((wire.SILENT, now, *about))
        self._deliveries.link.flush()
        if silent is not None and self._reconnects:
            reconnect(self._worker)

    def _look(self) -> Idle | None:
        """The broker is asked only where nothing arrived since the last look."""
        life = self._deliveries.generation, self._deliveries.link.last
        before, self._life = self._life, life
        if life != before or not is_consuming(self._worker) or self._deliveries.pausing.why:
            return None
        if monotonic_ms() - self._deliveries.ticked_at > TICKS_MS:
            if why_it_stands(self._worker) != BROKER or self._waiting([]) is None:
                return None
            return Idle(monotonic_ms(), life, {}, hangs=True)
        if self._deliveries.running() or not self._has_room():
            return None
        waiting = self._waiting(list(self._queues()))
        return None if waiting is None else Idle(monotonic_ms(), life, waiting)

    def _has_room(self) -> bool:
        """What waits for its time, or for its rate, may fill the prefetch."""
        consumer = self._worker.consumer
        channel = consumer.task_consumer.channel
        if isinstance(channel, VirtualChannel):
            return bool(channel.qos.can_consume())
        prefetch = consumer.qos.value if consumer.qos is not None else 0
        held = [one for one in self._deliveries.held() if one.generation == self._deliveries.generation]
        return not prefetch or sum(not one.request.acknowledged for one in held) < prefetch

    def _queues(self) -> Iterator[Any]:
        """Those that it consumes now: a cancelled one is paused by a person."""
        consumer = self._worker.consumer.task_consumer
        return (queue for queue in list(consumer.queues) if consumer.consuming_from(queue))

    def _waiting(self, queues: list[Any]) -> dict[str, int] | None:
        """Messages in each; None if the broker cannot be reached, or does not say."""
        app = self._worker.app
        with app.connection_for_read(connect_timeout=CONNECT_SECONDS) as connection:
            try:
                connection.ensure_connection(max_retries=1, timeout=CONNECT_SECONDS)
                return {str(queue.name): size_of(queue, connection.default_channel) for queue in queues}
            except (*connection.connection_errors, *connection.channel_errors):
                return None


def size_of(queue: Any, channel: Any) -> int:
    """Messages that wait in it, of all its priorities."""
    if isinstance(channel, VirtualChannel):
        return int(channel._size(queue.name))
    return int(channel.queue_declare(queue=queue.name, passive=True).message_count)


def reconnect(worker: Any) -> None:
    """Make Celery take a new connection, as after any other loss of it. From any thread: what waits for the
    old one, even to close it, finds it closed."""
    consumer = worker.consumer
    for connection in (consumer.connection, getattr(consumer.event_dispatcher, "connection", None)):
        for sock in list(_sockets(connection)):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
    if worker.hub is not None:
        worker.hub.call_soon(_lose)


def _lose() -> None:
    raise ConnectionResetError("crisper: this worker takes no messages, and connects anew")


def _sockets(connection: Any) -> Iterator[Any]:
    """What a connection of kombu's speaks over."""
    inner = getattr(connection, "_connection", None)
    yield from filter(None, [getattr(inner, "sock", None)])
    for channel in getattr(inner, "channels", None) or ():
        if isinstance(channel, VirtualChannel):
            yield from _of_redis(channel.__dict__)


def _of_redis(channel: dict[str, Any]) -> Iterator[Any]:
    for pool in filter(None, (channel.get("_pool"), channel.get("_async_pool"))):
        for one in {*pool._in_use_connections, *pool._available_connections}:
            yield from filter(None, [getattr(one, "_sock", None)])
