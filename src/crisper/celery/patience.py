"""How long, and how often, RabbitMQ lets this worker hold a delivery; told to people before it ends.

A thread of its own: a solo pool's loop stands still while a task runs, and the management API may
be slow.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from typing import Any

from celery import Celery
from celery.utils.log import get_logger

from crisper.celery.brokers.amqp import management_of, server_version
from crisper.celery.brokers.management import Management, ManagementTrouble
from crisper.celery.brokers.rules import CONSUMER_TIMEOUT, RULES_SECONDS, Rules, rules_of
from crisper.celery.held import Held, Stage
from crisper.settings import Settings

logger = get_logger(__name__)

#: Of the timeout: after this, a delivery that is still held is warned of, once.
WARN_AFTER = 0.75
#: Between two looks at what is held: this part of the shortest timeout, and never more often than that.
LOOKS_PER_TIMEOUT, LOOK_SECONDS_LEAST, LOOK_SECONDS_MOST = 60, 0.5, 15.0

_Delivery = tuple[Any, int]  # its tag, and the generation of its connection


class Patience:
    """`start` and `stop` on the loop's thread; `may_come_back` on any."""

    def __init__(self, app: Celery, settings: Settings, held: Callable[[], Collection[Held]]) -> None:
        self.on_error: Callable[[str], None] = lambda doing: None
        self._app, self._settings, self._held = app, settings, held
        self._api: Management | None = None
        self._version: tuple[int, ...] = (0,)
        self._rules: dict[str, tuple[Rules, float]] = {}
        self._since: dict[_Delivery, float] = {}
        self._warned: set[_Delivery] = set()
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._troubled = False

    def start(self, connection: Any) -> None:
        """For the broker that the consumer is connected to, if it is RabbitMQ."""
        if connection.transport.driver_type != "amqp":
            return
        self._version = server_version(connection)
        if self._thread is None:
            self._api = management_of(self._settings, connection)
            self._thread = threading.Thread(target=self._run, name="crisper-patience", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def may_come_back(self, held: Held) -> bool:
        """Whether RabbitMQ, given this delivery back, would deliver it again: over its queue's delivery
        limit it dead-letters or drops it."""
        if self._thread is None:
            return True
        try:
            known = self._rules.get(held.queue)
            rules = known[0] if known else rules_of(self._app, held.queue, self._version)
            return rules.delivery_limit is None or held.delivery_count < rules.delivery_limit
        except Exception:
            self.on_error("looking at a delivery limit")
            return True

    # -- the thread -----------------------------------------------------------

    def _run(self) -> None:
        while not self._stopped.wait(self._pause()):
            try:
                self._look()
            except Exception:
                self.on_error("looking at what RabbitMQ waits for")

    def _pause(self) -> float:
        timeouts = [rules.consumer_timeout for rules, _ in self._rules.values()]
        pause = min(timeouts, default=0.0) / LOOKS_PER_TIMEOUT
        return min(max(pause, LOOK_SECONDS_LEAST), LOOK_SECONDS_MOST)

    def _look(self) -> None:
        now, held = time.monotonic(), {}
        for one in self._held():
            if not one.request.acknowledged:
                held[one.request._message.delivery_tag, one.generation] = one
        self._since = {delivery: self._since.get(delivery, now) for delivery in held}
        self._warned &= held.keys()
        for delivery, one in held.items():
            timeout, waited = self._of(one.queue).consumer_timeout, now - self._since[delivery]
            if waited >= WARN_AFTER * timeout and delivery not in self._warned:
                self._warned.add(delivery)
                logger.warning("crisper: %s", warning(one, waited, timeout))

    def _of(self, queue: str) -> Rules:
        rules, at = self._rules.get(queue, (None, 0.0))
        now = time.monotonic()
        if rules is None or (self._api is not None and now - at > RULES_SECONDS):
            rules = self._read(queue) or rules or rules_of(self._app, queue, self._version)
            self._rules[queue] = rules, now
        return rules

    def _read(self, queue: str) -> Rules | None:
        try:
            rules = rules_of(self._app, queue, self._version, self._api)
            self._troubled = False
            return rules
        except ManagementTrouble as exc:
            if not self._troubled:
                logger.warning("crisper: RabbitMQ's rules for the queue %s are not known: %s", queue, exc)
            self._troubled = True
            return None


def warning(held: Held, waited: float, timeout: float) -> str:
    """What will happen, and what to do about it."""
    what, cure = _WHY.get(held.stage, ("it waits for the registry's answer", ""))
    if held.stage is Stage.GRANTED:
        what = "it waits for its ETA" if held.request.eta else "it waits for a free process"
        cure = ", or use a shorter countdown" if held.request.eta else ", or prefetch less"
    default = " unless the server's own file says otherwise" if timeout == CONSUMER_TIMEOUT else ""
    return (
        f"{held.request.name}[{held.task_id}] has been unacknowledged for {waited:.0f} s: {what}."
        f" After consumer_timeout, {timeout:g} s here{default}, RabbitMQ closes this worker's channel and"
        f" gives all that it holds to others. Set x-consumer-timeout of the queue {held.queue!r}, or"
        f" consumer_timeout of the server, above the longest time that a task is held{cure}."
    )


_WHY = {
    Stage.DISPATCHED: ("it runs", ", or split the task"),
    Stage.PARKED: ("an earlier delivery of it is still open", ""),
}
