"""What this worker holds: every delivery from its claim to its acknowledgement.

One `Held` per attempt. Everything that touches Celery's pool, its semaphore or
the consumer happens on the loop's own thread.
"""

from __future__ import annotations

import time

from celery.utils.log import get_logger

from crisper.celery.deliveries.answers import Answers
from crisper.celery.deliveries.claiming import Claiming
from crisper.celery.held import Stage
from crisper.celery.link import monotonic_ms
from crisper.celery.standing import is_consuming
from crisper.recorder import wire

logger = get_logger(__name__)


class Deliveries(Claiming, Answers):
    """The parent's view of its attempts. See `crisper.celery.request` for who calls what."""

    def on_timer(self) -> None:
        """Once a second: the loop's tick, and deliveries that waited long enough."""
        self.ticked_at = monotonic_ms()
        counted = {"errors": self.errors, "held": len(self._by_seq), "refused": self.refused}
        consuming = is_consuming(self.worker) and not self.pausing.why
        about = {**counted, "consuming": consuming}
        self.link.send((wire.TICK, self.ticked_at, about, self.lending.lends))
        self._make_room()
        with self.counted("lending slots"):
            self.lending.tick(next(iter(list(self._asking.values())), None))
        self.pausing.enforce()
        now = time.monotonic()
        for held in self.held():
            if held.stage is Stage.ASKED and now - held.asked_at > self.settings.lease:
                if self.may_come_back(held):
                    self.put_back(held)
            elif held.put_back_at is not None and now >= held.put_back_at:
                held.put_back_at = None
                if self.may_come_back(held):
                    self._put_back_now(held)
                else:
                    self._ask_again(held)
        self._maybe_flush()

    def goodbye(self) -> None:
        """After the consumer gave everything back: close what is open, each as what it is."""
        self.generation += 1  # nothing can be acknowledged any more
        asked = [held.seq for held in self.held() if held.stage is Stage.ASKED]
        heard = self.settle(max(asked, default=0), seconds=5.0)  # the loop may have ended before its answers
        for held in self.held():
            if held.muted:
                continue
            if held.stage is Stage.DISPATCHED and not held.acks_late and held.accepted:
                self.child_lost(
                    held,
                    {"how": "stopped by a cold shutdown"},
                    counted=False,
                    then=lambda kind: None,
                )
            elif held.is_open:
                self._release(held, "returned to the broker by a shutdown")
        data = {"errors": self.errors}
        last = self._record(lambda seq: (wire.NOTE, monotonic_ms(), seq, "goodbye", None, data))
        self.link.send((wire.BYE, "shutdown"))
        if not self.settle(last, seconds=5.0 if heard else 0.0):
            logger.warning("crisper: the registry did not take the goodbye; the recorder goes on trying")
