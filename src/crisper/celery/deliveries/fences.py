"""This incarnation was declared lost: nothing that it still does may count."""

from __future__ import annotations

import sys
from copy import copy

from celery.utils.log import get_logger

from crisper.celery.deliveries.orders import STOP_SECONDS, Orders
from crisper.celery.held import Held, Stage
from crisper.core.states import State

logger = get_logger(__name__)


#: What the registry has not granted us: a fence takes nothing of it away.
_NOT_CLAIMED = (Stage.ASKED, Stage.PARKED, Stage.UNANSWERABLE)


class Fences(Orders):
    """What was fenced is stopped; what the registry never granted is asked for anew."""

    def fenced(self) -> None:
        """This incarnation was declared lost: nothing it still does may count."""
        logger.error(
            "crisper: this worker was declared lost while it was silent; what it ran is fenced,"
            " and it goes on under a new incarnation"
        )
        unheard = [copy(held) for held in list(self._asking.values())]
        known = self.held()
        provisional = {held.seq: held for held in known if self._is_provisional(held)}
        fenced = [held for held in known if held.seq not in provisional]
        unclaimed = [held for held in fenced if held.stage in _NOT_CLAIMED]
        for held in fenced:
            was = held.stage
            if was in _NOT_CLAIMED:
                continue
            held.muted = True
            if was is Stage.DISPATCHED:
                # A body that ended while the parent stood still is heard first, as a late finish.
                self.worker.timer.call_after(STOP_SECONDS, self._stop_unless_ended, (held,))
            else:
                held.stage = Stage.DROPPED
                held.request._crisper_forget_delivery()
                self._let_go(held, was)
        going_on = {seq: lost for seq, lost in list(self._lost.items()) if lost[0].seq in self._provisional}
        for seq, (held, _) in list(self._lost.items()):
            if seq in going_on:
                continue
            held.muted = True
            if held.acks_late:
                held.request._crisper_forget_delivery()
        for book in (self._by_seq, self._by_message, self._asking, self._lost, self._dropped):
            book.clear()
        self._by_seq.update(provisional)
        self._by_message.update({held.message_id: held for held in provisional.values()})
        self._lost.update(going_on)
        self.lending.forget()
        self.on_fenced()
        for held in unheard:
            self._take_back_unheard(held)
        for held in unclaimed:
            self._claim_anew(held)

    def goes_on(self, seq: int) -> bool:
        """Whether what is said of this claim is true under the next incarnation as well."""
        return seq in self._provisional

    def _is_provisional(self, held: Held) -> bool:
        """Whether it runs by the journal's rules: no attempt of the registry, so no fence is over it."""
        return held.seq in self._provisional and held.stage in (Stage.GRANTED, Stage.DISPATCHED)

    def _take_back_unheard(self, held: Held) -> None:
        """A recorder that died may have let it run by its journal, which goes on record under the next
        incarnation whenever that is replayed."""
        self._keep_asking(held)
        self._dropped[held.seq] = (sys.maxsize, held, State.RELEASED, "its delivery was claimed anew")
