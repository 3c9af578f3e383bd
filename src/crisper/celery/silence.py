"""Whether this worker takes what waits in its queues: after a reconnect it may not, and nothing says so
(celery #8091, #9220, #10302).

A thread of its own, with a connection of its own (`Lookout`): the consumer's may be what is broken. Only an
idle worker looks, a few times a minute.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from amqp.exceptions import RecoverableConnectionError
from kombu.transport.virtual import Channel as VirtualChannel

from crisper.celery.deliveries import Deliveries
from crisper.celery.hearing import Hearing
from crisper.celery.link import monotonic_ms
from crisper.celery.lookout import Lookout
from crisper.celery.reconnecting import Reconnecting
from crisper.celery.standing import BROKER, is_consuming, why_it_stands
from crisper.engine.silent import CONNECTION, LOOKS, LOOP, Idle, SilenceWatch, Silent, sentence
from crisper.recorder import wire
from crisper.settings import Settings

#: Brokers that tell how many messages wait in a queue.
TELL = ("redis", "amqp", "filesystem")
#: A loop that has not ticked for so long is not idle: it stands, or it is wedged.
TICKS_MS = 3000
#: Its recorder looks once a second at what was said last.
HEARD_SECONDS = 2.0


class Silence:
    """`start` and `stop` on the loop's thread."""

    def __init__(self, worker: Any, deliveries: Deliveries, settings: Settings) -> None:
        self.on_error: Callable[[str], None] = lambda doing: None
        self._worker, self._deliveries, self._after = worker, deliveries, settings.silent_after
        self._reconnects = settings.on_silent == "reconnect"
        self._watch = SilenceWatch(int(self._after * 1000))
        self._lookout = Lookout(worker.app)
        self._reconnecting = Reconnecting(worker, self._lookout, settings)
        self._period = self._after / (LOOKS + 1)
        self._period_ms = int(self._period * 1000)
        self._hearing = Hearing(self._period_ms // 5)
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

    def ask(self) -> None:
        """Once a second, on the loop's thread. That the connection is lost, Celery finds by itself."""
        if self._thread is not None:
            with suppress(OSError, RecoverableConnectionError):
                self._hearing.ask(self._worker)

    def _run(self) -> None:
        pause = self._period
        while not self._stopped.wait(pause):
            try:
                pause = self._look_once()
            except Exception:
                self.on_error("looking at whether messages wait")
        self._lookout.close()

    def _look_once(self) -> float:
        """Seconds until the next look."""
        silent = self._watch.look(self._look())
        self._tell(silent)
        if silent is None:
            return self._period
        if self._reconnects:
            own = self._deliveries
            self._reconnecting.once(own.generation, own.incarnation, dead=bool(silent.hangs))
        return max(self._period, HEARD_SECONDS)

    def _tell(self, silent: Silent | None) -> None:
        """Once when it begins, and once when it is over."""
        if (silent is not None) == self._said:
            return
        now = monotonic_ms()
        self._said = silent is not None
        about: tuple[Any, ...] = (0, "", "", 0)
        if silent is not None:
            about = silent.since, sentence(silent, now), silent.queue, silent.waiting
        self._deliveries.link.send((wire.SILENT, now, *about))
        self._deliveries.link.flush()

    def _look(self) -> Idle | None:
        """The broker is asked only where nothing arrived since the last look."""
        life = self._deliveries.generation, self._deliveries.link.last
        before, self._life = self._life, life
        if life != before or not is_consuming(self._worker) or self._deliveries.pausing.why:
            return None
        if monotonic_ms() - self._deliveries.ticked_at > TICKS_MS:
            return self._hangs(LOOP) if why_it_stands(self._worker) == BROKER else None
        if self._deliveries.running():
            return None
        if self._hearing.deaf_for(self._worker) * 3 > self._period_ms:
            return self._hangs(CONNECTION)
        waiting = self._lookout.waiting(list(self._queues())) if self._has_room() else None
        return None if waiting is None else Idle(monotonic_ms(), life, waiting)

    def _hangs(self, what: str) -> Idle | None:
        """On a broker that answers others."""
        life = self._life
        return None if self._lookout.waiting([]) is None else Idle(monotonic_ms(), life, {}, hangs=what)

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
