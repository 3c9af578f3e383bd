"""How an attempt ends: each end on record once, and acknowledged when that is durable."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import copy
from typing import Any

from crisper.celery.deliveries.parts import Parts
from crisper.celery.held import Held, Stage
from crisper.celery.link import monotonic_ms
from crisper.core.states import State
from crisper.recorder import wire


class Ends(Parts):
    """Beginnings, outcomes, losses, and claims that are taken back."""

    def finish(
        self, held: Held, state: State, reason: str | None = None, runtime: float | None = None
    ) -> None:
        """The attempt ended; its acknowledgement waits until that is durable."""
        if held.muted or held.finish_seq or held.stage is Stage.CLOSED:
            return
        if self.usual is not None and runtime is not None:
            self.usual.ran(held.request.name, runtime)
        was, held.stage = held.stage, Stage.CLOSED
        if was is Stage.PARKED:
            self._drop_claim(held, state, reason)
            self._take_prefetch(held)
        else:
            self._finish_item(held, state, reason, runtime)
            self.lending.ended += held.accepted
        self._forget(held)
        self._maybe_flush()

    def child_lost(
        self, held: Held, evidence: dict[str, Any], *, counted: bool, then: Callable[[str], None]
    ) -> None:
        """A pool process died under the attempt. `then` is called once that is durable, with
        `lost`, or with `closed` where the child had said how the body ended."""
        if held.muted or held.finish_seq:
            return
        about = (held.seq, held.task_id, counted, evidence)
        with self.link.in_order:
            held.finish_seq = self._record(lambda seq: (wire.CHILD_LOST, monotonic_ms(), seq, *about))
            self._lost[held.finish_seq] = (held, then)
        held.stage = Stage.CLOSED
        self._forget(held)
        self._maybe_flush()

    def late(self, held: Held, state: State, reason: str | None, runtime: float | None) -> None:
        """A fenced attempt ended: that changes nothing, and is kept as an event."""
        runtime_ms = None if runtime is None else int(runtime * 1000)
        why = "its incarnation was fenced"
        data = {"number": held.number, "state": state.value, "reason": reason, "why": why}
        self.note("late_finish", held.task_id, {**data, "runtime_ms": runtime_ms})

    def mute_forget(self, held: Held) -> None:
        """A fenced attempt ended, and is stopped no longer: its delivery, unless it was acknowledged early,
        goes back, or is somebody else's already."""
        held.stage = Stage.CLOSED
        held.request._crisper_forget_delivery()

    def when_durable(self, held: Held, call: Callable[[], None]) -> None:
        """Acknowledge once the outcome is durable. While no loop runs, wait for it here."""
        if self._closing() and not self._on_other_thread():
            self.settle(held.finish_seq, seconds=5.0)
        self.link.when_durable(held.finish_seq, call, held.request._crisper_forget_delivery)
        if self.link.durable < held.finish_seq and held.generation == self.generation:
            self.lending.waits(held.finish_seq)

    def settle_acknowledgements(self) -> None:
        """The loop has ended, and nobody receives what the outcomes it took in still wait for."""
        if not self._on_other_thread():
            self.settle(self.link.awaited(), seconds=5.0)

    def settle(self, seq: int, seconds: float) -> bool:
        """Wait, bounded, until record `seq` is durable."""
        give_up = time.monotonic() + seconds
        self.link.flush()
        while self.link.durable < seq and time.monotonic() < give_up:
            if self._on_other_thread():
                time.sleep(0.01)  # eventlet suffers no second reader of the wire
            else:
                self.link.wait(0.05)
                self.receive()
        return self.link.durable >= seq

    def _finish_item(
        self, held: Held, state: State, reason: str | None = None, runtime: float | None = None
    ) -> None:
        runtime_ms = None if runtime is None else int(runtime * 1000)
        about = (held.seq, held.task_id, state.value, reason, runtime_ms)
        held.finish_seq = self._record(lambda seq: (wire.FINISH, monotonic_ms(), seq, *about))

    def _release(self, held: Held, why: str) -> None:
        """Its delivery goes back. Where the broker will not give it again, by a delivery limit, nobody
        would: a courier looks after it as after a loss, which does not count against its budget."""
        if self.may_come_back(held):
            self._finish_item(held, State.RELEASED, why)
        else:
            self._lose(held, why)

    def _lose(self, held: Held, why: str) -> None:
        """Not by any fault of its own: that does not count against its budget."""
        about = (held.seq, held.task_id, False, {"how": why, "delivery_count": held.delivery_count})
        held.finish_seq = self._record(lambda seq: (wire.CHILD_LOST, monotonic_ms(), seq, *about))

    def _release_late(self, held: Held, why: str) -> None:
        """Granted when its delivery was gone. Where the message was run meanwhile, by another delivery,
        nobody may have it any more: a courier looks after it. So it may be where a journal let it run after
        its connection was lost; what we gave back ourselves is the broker's."""
        given_back = held.number == 0 and held.generation == self.generation
        if held.number == 1 or given_back:
            self._release(held, why)
        else:
            self._lose(held, why)

    def _drop_claim(
        self, held: Held, state: State = State.RELEASED, reason: str | None = "its delivery was gone"
    ) -> None:
        """A parked claim is taken back. It may have been granted meanwhile: then it closes as this. Should
        this recorder die before it hears of it, the next one is asked what became of the claim."""
        self.link.send((wire.DROP, held.seq))
        self._dropped[held.seq] = (self.link.last, copy(held), state, reason)  # it may be claimed anew

    def _forget_dropped(self, durable: int) -> None:
        """What was said after the claim was taken back is confirmed: no grant is on its way any more.

        A recorder that has taken the place of the one that was told hears of the claim itself first.
        """
        dropped, since = list(self._dropped.items()), self.link.since
        for seq in [seq for seq, (last, *_) in dropped if max(last, since) < durable]:
            self.link.sit(seq)
            del self._dropped[seq]

    def _granted_in_vain(self, seq: int, kind: str, number: int) -> None:
        """What became of a claim that was taken back; another recorder may have heard of that too soon."""
        dropped = self._dropped.pop(seq, None)
        if dropped is None:
            return
        _, held, state, reason = dropped
        if kind == "parked":
            self._drop_claim(held, state, reason)
            return
        self.link.sit(seq)
        if kind not in ("granted", "stopped"):
            return
        if state is State.RELEASED:
            held.number = number
            self._release_late(held, str(reason))
        else:
            self._finish_item(held, state, reason)
