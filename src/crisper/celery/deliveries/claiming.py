"""A message arrives: it is claimed, or what is held of it adopts the new delivery."""

from __future__ import annotations

import time
from typing import Any

from crisper.celery.deliveries.returns import Returns
from crisper.celery.held import Held, Stage


class Claiming(Returns):
    """One claim for each delivery that is not known yet."""

    def claim(self, request: Any) -> Held:
        """A message was received: claim it, or let what we hold of it adopt the new delivery."""
        with self._receiving:  # not while a fence, on another thread, lets go of all that is held
            return self._claim(request)

    def _claim(self, request: Any) -> Held:
        message_id = self._claims.message_id_of(request)
        holder = self._by_message.get(message_id)
        if holder is not None and holder.muted:
            holder = None
        if holder is not None and not self._is_copy(holder, request):
            return self._redelivered(holder, request)
        with self.link.in_order:
            seq = self.link.number()
            held = Held(seq, request, message_id, self.generation)
            held.is_copy, held.ended_before = holder is not None, self.lending.ended
            self._copies |= held.is_copy
            item = self._claim_item(held)  # before anything knows of it: this may raise
            self._by_seq[seq] = self._asking[seq] = held
            if holder is None:
                self._by_message[message_id] = held
            self.link.record(seq, item)
        self._maybe_flush()
        return held

    def _is_copy(self, holder: Held, request: Any) -> bool:
        """Whether the message lies in the broker twice: of a redelivery the earlier delivery is over. What is
        not marked as one was published again, by a courier perhaps, because the holder was declared lost."""
        if not (request.message.delivery_info or {}).get("redelivered"):
            return True
        tags = request.message.delivery_tag, holder.request._message.delivery_tag
        return holder.generation == self.generation and tags[0] != tags[1]

    def _redelivered(self, holder: Held, request: Any) -> Held:
        """The broker gave us again what we have."""
        if holder.stage is Stage.DISPATCHED:
            return self._adopt(holder, request)
        # Not begun yet: the newer delivery is the one that can still be acknowledged.
        stale = holder.request
        if stale is not request:
            stale._crisper = None
            stale._crisper_dropped = True
        if holder.has_slot and holder.generation == self.generation:
            self._release_slot(holder)
        holder.has_slot = False
        holder.request, holder.generation = request, self.generation
        holder.received_at = time.time()
        return holder

    def _adopt(self, holder: Held, request: Any) -> Held:
        """The running attempt will acknowledge the new delivery."""
        running = holder.request
        running._message, running._on_ack, running._on_reject = (
            request._message,
            request._on_ack,
            request._on_reject,
        )
        running.acknowledged = False
        holder.generation, holder.received_at = self.generation, time.time()
        request._crisper_dropped, request._crisper_instead = True, running
        self.note("adopted", holder.task_id, {"number": holder.number})
        return holder
