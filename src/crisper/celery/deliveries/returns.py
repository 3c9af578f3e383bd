"""Deliveries that go back to the broker, and connections that took them along."""

from __future__ import annotations

import math
import time
from collections import Counter

from celery.utils.log import get_logger
from celery.worker import state as worker_state
from kombu.transport.virtual import Channel as VirtualChannel

from crisper.celery.brokers.amqp import begin_anew
from crisper.celery.claims import DISPATCHED, QUEUE
from crisper.celery.deliveries.ends import Ends
from crisper.celery.held import Held, Stage
from crisper.celery.link import Item
from crisper.recorder import wire

logger = get_logger(__name__)


#: Seconds before a delivery that could not be answered goes back to the broker.
PUT_BACK_SECONDS = 5.0


class Returns(Ends):
    """What is given back is released; what the broker would not give again stays here."""

    def put_back(self, held: Held, after: float = 0.0) -> None:
        """Return the delivery to the broker, later if the broker would only give it back at once."""
        held.wants_to_run |= held.has_slot
        if held.has_slot and held.generation == self.generation:
            self._release_slot(held)
        if after:
            held.put_back_at = time.monotonic() + after
        else:
            self._put_back_now(held)

    def _ask_again(self, held: Held) -> None:
        """Given back, the broker would dead-letter or drop it: it stays here, as if it were parked, and
        is asked for anew."""
        if not held.stays:
            logger.warning(
                "crisper: delivery of %s stays here: the delivery limit of the queue %s allows no other",
                held.task_id,
                held.queue,
            )
        held.stays = True
        if held.stage is Stage.PARKED:
            self._drop_claim(held)
        else:
            held.stage = Stage.PARKED
            worker_state.reserved_requests.discard(held.request)
            self._give_prefetch(held)
        self._forget(held)
        self._claim_anew(held)

    def _put_back_now(self, held: Held) -> None:
        was, held.stage = held.stage, Stage.DROPPED
        if was is Stage.GRANTED:
            self._release(held, "put back")
            held.stage = Stage.CLOSED
        elif was is Stage.PARKED:
            self._drop_claim(held)
        seq = held.finish_seq
        self._let_go(held, was)
        if was is Stage.ASKED:
            self._by_seq[held.seq] = held  # its answer is still to come, and is then released
        if held.generation == self.generation:
            request = held.request
            self.link.when_durable(
                seq, lambda: request._crisper_reject(requeue=True), request._crisper_forget_delivery
            )

    def new_connection(self) -> None:
        """The consumer has a new broker connection: deliveries of the old one cannot be acked."""
        self.generation += 1
        self.lending.forget()
        self._claims.forget_queues()
        self._take_back()
        for held in self.held():
            if held.stage is not Stage.DISPATCHED:
                self._drop(held, "its connection was lost before it began")
        self._maybe_flush()

    def _take_back(self) -> None:
        """Kombu restores what was unacknowledged when its connection closes: in vain, if the broker was
        away by then. Redis would keep it for the visibility timeout; whatever comes of handing
        it back, the gate decides: what runs here adopts it."""
        left = {
            str(held.request._message.delivery_tag): held.received_at
            for held in self.held()
            if not held.request.acknowledged and isinstance(held.request._message.channel, VirtualChannel)
        }
        if left:
            self.on_left_behind(left)

    def _drop(self, held: Held, why: str) -> None:
        if held.stage is Stage.DROPPED:
            return  # on an earlier connection; its answer is still to come
        was, held.stage, held.has_slot = held.stage, Stage.DROPPED, False
        if self._by_message.get(held.message_id) is held:
            del self._by_message[held.message_id]
        if was is Stage.GRANTED:
            self._release(held, why)
        elif was is Stage.PARKED:
            self._drop_claim(held)
        if was is not Stage.ASKED:  # else its answer is still to come
            self._forget(held)

    def abandon(self, held: Held, why: str) -> None:
        """Dispatched, but the pool let go of it before the body began."""
        held.stage = Stage.GRANTED
        self._drop(held, why)

    def _keep_asking(self, held: Held) -> None:
        """A parked claim is confirmed, so the next recorder must be asked anew."""
        _, *about = self._claim_item(held)
        self.link.keep_standing(held.seq, (wire.CLAIM_AGAIN, *about))

    def _claim_item(self, held: Held) -> Item:
        item = self._claims.item(held, begins=not held.acks_late and not self._uses_slots())
        held.queue = item[QUEUE]
        return item

    def _claim_anew(self, held: Held) -> None:
        """No attempt of the fenced incarnation, so nobody would bring the message back: ours to ask for."""
        if held.stage is Stage.UNANSWERABLE:
            held.stage = Stage.ASKED
        held.put_back_at, held.asked_at = None, time.monotonic()
        held.is_copy = held.message_id in self._by_message
        self._copies |= held.is_copy
        with self.link.in_order:
            held.seq = self.link.number()
            item = self._claim_item(held)
            if held.has_slot and self._uses_slots():
                item[DISPATCHED] = True
            self._by_seq[held.seq] = self._asking[held.seq] = held
            self._by_message.setdefault(held.message_id, held)
            self.link.record(held.seq, item)
        if held.stage is Stage.PARKED:
            self._keep_asking(held)

    def _make_room(self) -> None:
        """Where the prefetch is static, what is parked would fill it up: such a consumer begins anew."""
        parked = Counter(
            str((held.request._message.delivery_info or {}).get("consumer_tag"))
            for held in self.held()
            if held.stage is Stage.PARKED and held.generation == self.generation
        )
        consumer = self.worker.consumer
        task_consumer = getattr(consumer, "task_consumer", None)
        if not parked or task_consumer is None or self._closing() or not self._prefetch_is_static(consumer):
            return
        room = consumer.initial_prefetch_count or math.inf
        begin_anew(task_consumer, [tag for tag, count in parked.items() if 2 * count >= room])
