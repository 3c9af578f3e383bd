"""What this worker holds stays its own at the broker, and what nobody holds any more goes back.

Only for brokers that give a message to somebody else after a time, whoever holds
it (Redis, `visibility_timeout`). A thread of its own: neither a loop that stands
still nor a long recovery may cost a running task its message.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from typing import Any

from celery import Celery
from celery.utils.log import get_logger

from crisper.celery.brokers import broker_of
from crisper.celery.brokers.base import Broker
from crisper.celery.desk import Desk
from crisper.errors import CrisperError
from crisper.settings import Settings

logger = get_logger(__name__)

#: Of the visibility timeout, between two renewals: three may fail before anybody else gets the message.
RENEWALS_PER_TIMEOUT = 4
#: An entry that was not renewed for so many periods is looked at.
PERIODS_UNKEPT = 2
#: Between two tries while the broker does not answer, in seconds.
RETRY_SECONDS = 1.0


def keep_every(settings: Settings, broker: Broker) -> float:
    """Seconds between two renewals of what a worker holds."""
    return min(settings.heartbeat_interval, broker.forgets_after / RENEWALS_PER_TIMEOUT)


class Upkeep:
    """Started with the first connection; `hold` and `take_back` are called on the loop's thread."""

    def __init__(self, app: Celery, settings: Settings, desk: Desk) -> None:
        self.on_error: Callable[[str], None] = lambda doing: None
        self._app, self._settings, self._desk = app, settings, desk
        self._held: tuple[str, ...] = ()
        self._left: dict[str, float] = {}
        self._kept: dict[str, float] = {}  # when each was last renewed, by this host's clock
        self._lock = threading.Lock()
        self._broker: Broker | None = None
        self._thread: threading.Thread | None = None
        self._hurry, self._stopped = threading.Event(), False
        self._outages: tuple[type[Exception], ...] = (CrisperError,)
        self._troubled = False

    def start(self, connection: Any) -> None:
        """For the broker that the consumer is connected to."""
        if self._thread is None and connection.transport.driver_type == "redis":
            self._outages += (*connection.connection_errors, *connection.channel_errors)
            self._thread = threading.Thread(target=self._run, name="crisper-upkeep", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """What is held goes back by Celery's own shutdown."""
        self._stopped = True
        self._hurry.set()

    def hold(self, tags: Collection[str]) -> None:
        """All deliveries that this worker has received and not acknowledged."""
        self._held = tuple(tags)

    def take_back(self, left: dict[str, float]) -> None:
        """Deliveries, by tag and time of receipt, were left behind on a lost connection."""
        with self._lock:
            self._left.update(left)
        self._hurry.set()

    # -- the thread -----------------------------------------------------------

    def _run(self) -> None:
        keep_at = 0.0
        while not self._stopped:
            self._hurry.clear()
            try:
                self._broker = self._broker or broker_of(self._app, self._settings)
                period = keep_every(self._settings, self._broker)
                self._take_back(self._broker)
                now = time.monotonic()
                if now >= keep_at:
                    self._keep(self._broker)
                    self._clear_out(self._broker, period)
                    keep_at = now + period
            except self._outages as exc:
                self._trouble(exc)
            except Exception:
                self.on_error("keeping what this worker holds")
                self._trouble(None)
            else:
                self._troubled = False
                self._hurry.wait(max(0.0, keep_at - time.monotonic()))
        self._drop_broker()

    def _trouble(self, exc: Exception | None) -> None:
        if exc is not None and not self._troubled:
            logger.warning("crisper: what this worker holds at the broker cannot be renewed: %s", exc)
        self._troubled = True
        self._drop_broker()
        time.sleep(RETRY_SECONDS)

    def _keep(self, broker: Broker) -> None:
        held = self._held
        broker.keep(held)
        self._kept = dict.fromkeys(held, time.time())

    def _take_back(self, broker: Broker) -> None:
        """Until the broker has answered for each: nobody else knows of them."""
        while self._left and not self._stopped:
            tag, received_at = next(iter(self._left.items()))
            # A later score than that of our own renewal is that of its next holder.
            broker.take_back(tag, max(received_at, self._kept.get(tag, 0.0)))
            with self._lock:
                del self._left[tag]

    def _clear_out(self, broker: Broker, period: float) -> None:
        """Give what is left of the dead back; whatever comes of it, the gate decides."""
        unkept = broker.unkept(PERIODS_UNKEPT * period, every=period)
        if not unkept:
            return
        left_over = self._desk.left_over([entry for entry, _ in unkept])
        gone = [(e, at) for (e, at), is_left in zip(unkept, left_over, strict=True) if is_left]
        given = sum(broker.take_back(entry.tag, at) for entry, at in gone)
        if given:
            logger.warning("crisper: handed back %d deliveries that nobody holds any more", given)

    def _drop_broker(self) -> None:
        if self._broker is not None:
            self._broker.close()
            self._broker = None
