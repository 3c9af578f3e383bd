"""What the recorder says, and what becomes of each delivery by it."""

from __future__ import annotations

from itertools import takewhile

from celery.utils.log import get_logger
from celery.worker import state as worker_state

from crisper.celery.deliveries.dispatching import Dispatching
from crisper.celery.deliveries.fences import Fences
from crisper.celery.deliveries.returns import PUT_BACK_SECONDS
from crisper.celery.held import Held, Stage
from crisper.celery.link import Item
from crisper.recorder import wire

logger = get_logger(__name__)


class Answers(Dispatching, Fences):
    """On the loop's own thread, or on ours where there is no loop."""

    def receive(self) -> None:
        """Take in what the recorder said. On the loop's thread; never blocks, never raises."""
        with self._receiving:
            items = [*self._put_off, *self._arrived()]
            self._put_off.clear()
            for item in items:
                try:
                    self._take(item)
                except Exception:
                    self.count_error(f"taking {item[0]!r}")
            try:
                self.lending.settle()
            except Exception:
                self.count_error("lending slots")
            self.link.run_waiting(lambda: self.counted("acknowledging"))
        self.link.flush()

    def _take(self, item: Item) -> None:
        match item[0]:
            case wire.ANSWERS:
                self._answers(item[1], item[2])
            case wire.READY:
                self.ready = True
            case wire.CASES:
                self.on_cases(item[1])
            case wire.UNCLAIMED:
                self.on_unclaimed(item[1])
            case wire.TOLD:
                self.on_told(item)
            case wire.ORDERS:
                self._ordered(item[1])
            case wire.PAUSE:
                self.pausing.say(item[1])
            case wire.DEAD:
                self._gone(item[1])
            case wire.FENCED if item[1] == self.incarnation:  # else it is over already
                self.fenced()
            case wire.LOG:
                getattr(logger, item[1])("crisper: %s", item[2])
            case wire.TROUBLE:
                self.errors += 1
                logger.error("crisper: internal error in the recorder: %s", item[1])
            case wire.FATAL:
                self.on_fatal(item[1], item[2])

    def _answers(self, durable: int, news: list[tuple[int, str, int, str, str]]) -> None:
        oldest = next(iter(self._asking.values()), None)
        if oldest is not None and oldest.seq <= durable:
            try:  # what was answered is taken in whatever becomes of this
                self.lending.answered(oldest)
            except Exception:
                self.count_error("measuring how long a claim waited")
        for seq, kind, number, reason, checkpoint in news:
            if checkpoint and (held := self._by_seq.get(seq)) is not None:
                held.checkpoint = checkpoint
            self._answer(seq, kind, number, reason)
        for seq in list(takewhile(lambda asked: asked <= durable, tuple(self._asking))):
            self._answer(seq, "granted", 1, "")
        for seq in [s for s in list(self._lost) if s <= durable]:
            self._answer(seq, "closed", 0, "")
        self._forget_dropped(durable)

    def _answer(self, seq: int, kind: str, number: int, reason: str) -> None:
        self._asking.pop(seq, None)
        if seq in self._lost:
            _, call = self._lost.pop(seq)
            with self.counted("going on after a loss"):
                call(kind)
            return
        if kind == "granted" and not number:
            self._provisional.add(seq)
        else:
            self._provisional.discard(seq)
        held = self._by_seq.get(seq)
        if held is None:
            self._granted_in_vain(seq, kind, number)
            return
        try:
            self._answer_to(held, kind, number, reason)
        except Exception:
            self.count_error(f"taking the answer {kind!r}")
            if kind == "granted" and held.stage in (Stage.ASKED, Stage.GRANTED):
                held.stage = Stage.GRANTED  # on record, and not begun: it is released and comes again
                self.put_back(held)

    def _answer_to(self, held: Held, kind: str, number: int, reason: str) -> None:
        if kind == "granted":
            self._granted(held, number)
        elif kind == "stopped":
            self._stopped(held, number, reason)
        elif kind == "parked":
            self._parked(held)
        elif kind == "refused":
            self._refused(held, reason)
        elif kind == "overlap":
            self._overlaps(held, reason)
        elif kind == "put_back" and held.stage in (Stage.ASKED, Stage.PARKED):
            if held.stage is Stage.ASKED:
                held.stage = Stage.UNANSWERABLE
            self.put_back(held, after=PUT_BACK_SECONDS)

    def _granted(self, held: Held, number: int) -> None:
        if held.stage is not Stage.DISPATCHED:  # else what stands is that it has begun
            self.link.sit(held.seq)
        held.number = number
        if held.stage is Stage.DROPPED:
            self._release_late(held, "its connection was lost before it began")
            self._forget(held)
        elif held.stage is Stage.ASKED:
            held.stage = Stage.GRANTED
            if held.has_slot:
                self._answered_dispatch(held)
            else:
                self._run_if_wanted(held)
        elif held.stage is Stage.PARKED:
            held.stage = Stage.GRANTED
            self._take_prefetch(held)
            self._run_if_wanted(held)

    def _overlaps(self, held: Held, reason: str) -> None:
        """It was let run while the registry was away, and has a rival there: it is no attempt."""
        self.refused += 1
        if held.stage is Stage.GRANTED:  # not begun yet: the gate is asked in earnest
            self._forget(held)
            held.stage, held.number = Stage.ASKED, 1
            self._claim_anew(held)
            return
        logger.warning("crisper: %s runs here beside another attempt of it: %s", held.task_id, reason)

    def _stopped(self, held: Held, number: int, why: str) -> None:
        """Granted, and a person has ordered its task to stop: it does not begin."""
        if held.stage in (Stage.DROPPED, Stage.DISPATCHED):
            self._granted(held, number)  # relaxed: it runs already, and the order comes again
            return
        self.link.sit(held.seq)
        held.number = number
        was, held.stage = held.stage, Stage.GRANTED
        if was is Stage.PARKED:
            self._take_prefetch(held)
        self._revoke(held, why)

    def _parked(self, held: Held) -> None:
        if held.stage is Stage.DISPATCHED:  # relaxed: it runs already
            self.note("overlap", held.task_id, {"seq": held.seq})
            return
        if held.stage is Stage.PARKED:
            return  # another recorder was asked, or another incarnation asks
        if held.stage is not Stage.ASKED:
            self._keep_asking(held)
            self._drop_claim(held)
            self._forget(held)
            return
        held.stage = Stage.PARKED
        self._keep_asking(held)
        worker_state.reserved_requests.discard(held.request)
        self._give_prefetch(held)
        if held.has_slot:
            held.wants_to_run = True
            self._release_slot(held)

    def _refused(self, held: Held, reason: str) -> None:
        self.link.sit(held.seq)
        self.refused += 1
        if held.stage is Stage.DISPATCHED:  # relaxed: too late to refuse
            self.note("overlap", held.task_id, {"seq": held.seq, "reason": reason})
            return
        was, held.stage = held.stage, Stage.CLOSED
        self._let_go(held, was)
        if held.generation == self.generation:
            logger.info("crisper: delivery of %s refused: %s", held.task_id, reason)
            held.request._crisper_acknowledge()
