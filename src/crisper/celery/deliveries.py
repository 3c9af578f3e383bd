"""What this worker holds: every delivery from its claim to its acknowledgement.

One `Held` per attempt. Everything that touches Celery's pool, its semaphore or
the consumer happens on the loop's own thread.
"""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from copy import copy
from itertools import takewhile
from typing import Any

from billiard.pool import SIG_SOFT_TIMEOUT
from celery.exceptions import TaskRevokedError
from celery.utils.log import get_logger
from celery.worker import state as worker_state
from kombu.transport.virtual import Channel as VirtualChannel

from crisper.celery.brokers.amqp import begin_anew, prefetch_is_static
from crisper.celery.claims import DISPATCHED, QUEUE, Claims
from crisper.celery.dispatcher import Dispatcher
from crisper.celery.ending import end
from crisper.celery.held import Held, Stage
from crisper.celery.inside import Inside, is_soft
from crisper.celery.link import Item, Link, monotonic_ms
from crisper.celery.pausing import Pausing
from crisper.celery.slots import Slots
from crisper.celery.standing import is_consuming
from crisper.core.states import State
from crisper.engine.stalled import Usual
from crisper.recorder import wire
from crisper.settings import Settings

logger = get_logger(__name__)

#: Seconds before a delivery that could not be answered goes back to the broker.
PUT_BACK_SECONDS = 5.0
#: Between learning of a fence and stopping the processes of what it fenced.
STOP_SECONDS = 0.2

#: A process that a person's order ends with SIGTERM has so long until SIGKILL.
GRACE_SECONDS = 5.0

#: Celery's event loop turns on the main thread.
_LOOP_THREAD = threading.main_thread().ident

#: What the registry has not granted us: a fence takes nothing of it away.
_NOT_CLAIMED = (Stage.ASKED, Stage.PARKED, Stage.UNANSWERABLE)


class Deliveries:
    """The parent's view of its attempts. See `crisper.celery.request` for who calls what."""

    def __init__(self, worker: Any, link: Link, settings: Settings) -> None:
        self.worker, self.link, self.settings = worker, link, settings
        self.generation = 0
        self.errors = 0  # of our own, counted and shown
        self.refused = 0
        self.on_cases: Callable[[list[dict[str, Any]]], None] = lambda cases: None
        self.on_unclaimed: Callable[[list[tuple[Any, ...]]], None] = lambda messages: None
        self.on_told: Callable[[Item], None] = lambda item: None
        self.on_fatal: Callable[[str, int], None] = lambda sentence, code: None
        self.on_left_behind: Callable[[dict[str, float]], None] = lambda left: None
        self.on_fenced: Callable[[], None] = lambda: None
        self.on_unnoticed: Callable[[Held, int], None] = lambda held, pid: None
        self.may_come_back: Callable[[Held], bool] = lambda held: True
        self._by_seq: dict[int, Held] = {}
        self._by_message: dict[str, Held] = {}
        self._copies = False  # whether a message was ever here twice
        self._lost: dict[int, tuple[Held, Callable[[str], None]]] = {}
        self._claims = Claims(worker, settings)
        self._dispatcher: Dispatcher | None = None
        self._static = (-1, False)  # whether the prefetch is, of this generation's connection
        self._asking: dict[int, Held] = {}  # claims without an answer, in their order
        self._receiving = threading.RLock()
        self._put_off: list[Item] = []  # arrived, and not taken yet
        self._provisional: set[int] = set()  # claims that run by the journal's rules, not in the registry yet
        #: Parked claims that were taken back, with the last record before that, and how they close.
        self._dropped: dict[int, tuple[int, Held, State, str | None]] = {}
        self.pausing = Pausing(worker)
        self.ready = False
        self.ticked_at = monotonic_ms()  # the loop, last
        self.incarnation = ""  # whose attempts these are
        self.usual: Usual | None = None
        self.slots = Slots()
        self.inside = Inside(worker)

    # -- claiming -------------------------------------------------------------

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
            held.is_copy = holder is not None
            self._copies |= held.is_copy
            item = self._claim_item(held)  # before anything knows of it: this may raise
            self._by_seq[seq] = self._asking[seq] = held
            if holder is None:
                self._by_message[message_id] = held
            self.link.record(seq, item)
        self._maybe_flush()
        return held

    def _claim_item(self, held: Held) -> Item:
        item = self._claims.item(held, begins=not held.acks_late and not self._uses_slots())
        held.queue = item[QUEUE]
        return item

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

    def _uses_slots(self) -> bool:
        return getattr(self.worker, "semaphore", None) is not None and self.worker.pool.uses_semaphore

    # -- dispatching ----------------------------------------------------------

    def dispatch(self, held: Held, pool: Any) -> None:
        """Celery wants the request run: now, or once its claim is durable.

        Raises `TaskRevokedError` where it is not to run: Celery then gives the slot back.
        """
        held.pool = pool
        if not self._may_run_now(held):
            if self._waits_here():
                self._await_answer(held)
        elif self._dispatcher is not None and held.stage is Stage.GRANTED and not self._waits_here():
            self._dispatcher.put(held)  # a full pool would block the thread that consumes
        else:
            self._to_pool(held)

    def _may_run_now(self, held: Held) -> bool:
        """Whether to dispatch at once; if not, the answer, which may come on another thread, does."""
        with self._receiving:
            if held.stage is Stage.GRANTED:
                return True
            if held.stage is Stage.ASKED:
                held.has_slot = self.settings.recording == "strict"
                # A slot is free: the body begins as soon as the claim is durable, so the claim says so.
                if held.has_slot and self._uses_slots():
                    self.link.amend(held.seq, DISPATCHED, True)
                return not held.has_slot
            held.wants_to_run = held.stage in (Stage.PARKED, Stage.UNANSWERABLE)
            if held.stage is Stage.CLOSED:  # stopped, expired or revoked while it waited for its time
                worker_state.reserved_requests.discard(held.request)
        raise TaskRevokedError(held.task_id)

    def _waits_here(self) -> bool:
        """The solo pool runs the body in this very thread, and without a loop nobody would answer."""
        return self.worker.hub is None and type(self.worker.pool).__module__.endswith(".solo")

    def _await_answer(self, held: Held) -> None:
        while held.stage is Stage.ASKED and held.has_slot:
            self.link.flush()
            self.link.wait(0.5)
            self.receive()
        self.run_granted(held)

    def _to_pool(self, held: Held) -> None:
        with self._receiving:  # not while an order to stop it, on another thread, is carried out
            self._heed_orders()
            if held.stage is Stage.CLOSED:
                raise TaskRevokedError(held.task_id)
            held.has_slot = False
            held.stage = Stage.DISPATCHED
        if not held.acks_late:
            self.link.send((wire.START, monotonic_ms(), held.seq, held.task_id, 0))
            self._maybe_flush()
        held.request._request_dict["crisper"] = (held.seq, held.number, held.checkpoint)
        held.future = getattr(held.request._crisper_run(held.pool), "f", None)

    def _answered_dispatch(self, held: Held) -> None:
        """A claim was granted while its request waited with a slot."""
        if self._waits_here():
            return  # the thread that waits for this goes on itself
        if self._dispatcher is not None:
            self._dispatcher.put(held)
        else:
            self.run_granted(held)

    def run_granted(self, held: Held) -> None:
        if held.stage is not Stage.GRANTED or self._closing():
            return
        try:
            self._to_pool(held)
        except TaskRevokedError:
            self._release_slot(held)
        except Exception:
            self.count_error("dispatching")
            self._release_slot(held)
            held.stage = Stage.GRANTED
            self.put_back(held)

    def _closing(self) -> bool:
        """The pool takes no more: what is granted and not begun goes back to the broker."""
        blueprint = self.worker.blueprint
        return blueprint is not None and blueprint.state != 1  # bootsteps.RUN

    def _release_slot(self, held: Held) -> None:
        held.has_slot = False
        release = getattr(self.worker, "_quick_release", None)
        if release is not None and self._uses_slots():
            release()

    # -- answers --------------------------------------------------------------

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
            self.link.run_waiting(lambda: self.counted("acknowledging"))
        self.link.flush()

    def _arrived(self) -> list[Item]:
        try:
            return self.link.receive()
        except Exception:
            # What was in it is lost, but another recorder is told everything again, and answers.
            self.count_error("receiving")
            self.link.start_anew()
            return []

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

    def _run_if_wanted(self, held: Held) -> None:
        """Celery asked for it once, and was told to go on without it."""
        if held.wants_to_run and not self._closing():
            held.wants_to_run = False
            worker_state.task_reserved(held.request)
            self.worker.consumer.on_task_request(held.request)

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

    def _gone(self, unnoticed: list[tuple[int, int, int]]) -> None:
        """Attempts of ours whose process is gone, by what our recorder sees, and whose pool said nothing."""
        for seq, pid, gone_ms in unnoticed:
            held = self._by_seq.get(seq)
            if held is None or held.muted or held.finish_seq or held.request.worker_pid != pid:
                continue  # over, or another process runs it by now: what was recorded is on its way
            if held.stage is Stage.DISPATCHED and held.accepted and self._is_prefork():
                with self.counted("burying a process"):
                    held.unnoticed_ms = gone_ms
                    self.on_unnoticed(held, pid)

    # -- orders to stop -------------------------------------------------------

    def _ordered(self, orders: list[tuple[int, int, str, bool]]) -> None:
        """Attempts of ours that a person, or a policy, ordered to stop; each comes again until it is closed.
        The last word of each: whether it is to run again."""
        for seq, number, why, resend in orders:
            held = self._by_seq.get(seq)
            if held is None or held.number != number or held.muted or held.finish_seq:
                continue  # not known yet, or over: what was recorded of it is on its way
            with self.counted("stopping a task"):
                if resend:
                    held.resend |= not held.stopped
                    self._terminate(held, why)
                elif held.stage is Stage.GRANTED or (held.future is not None and held.future.cancel()):
                    self._revoke(held, why)
                else:
                    self._terminate(held, why)

    def _heed_orders(self) -> None:
        """The solo pool's bodies keep the loop: what a person ordered meanwhile is heard before the next one
        begins, and the rest of what arrived in its turn."""
        if not type(self.worker.pool).__module__.endswith(".solo"):
            return
        arrived = self._arrived()
        self._put_off += [item for item in arrived if item[0] != wire.ORDERS]
        if self._put_off:
            self.worker.timer.call_after(0, self.receive)
        for item in arrived:
            if item[0] == wire.ORDERS:
                self._ordered(item[1])

    def _revoke(self, held: Held, why: str) -> None:
        """Granted and not begun: it ends here, by Celery's own way of ending what was revoked."""
        logger.info("crisper: %s does not run: %s", held.task_id, why)
        if held.has_slot and held.generation == self.generation:
            self._release_slot(held)
        held.has_slot, held.stopped = False, why
        held.request._crisper_revoke()

    def _terminate(self, held: Held, why: str) -> None:
        """Ask the pool process that runs this very attempt to end, and end it if it does not.

        How the attempt ended is recorded when the process is gone, or has ended the body in time.
        """
        if held.stage is not Stage.DISPATCHED or not held.accepted:
            return
        if not self._is_prefork():
            self.inside.end(held, lambda: self._asked_to_end(held, why))
            return
        now, pid = time.monotonic(), held.request.worker_pid
        soft = SIG_SOFT_TIMEOUT if is_soft(held.request.task) else signal.SIGTERM
        if not held.stopped and self._stop(held, pid, soft):
            logger.warning("crisper: ending process %s, which runs %s: %s", pid, held.task_id, why)
            held.stopped, held.kill_at = why, now + GRACE_SECONDS
        elif held.stopped and now >= held.kill_at:
            self._stop(held, pid, signal.SIGKILL)

    def _asked_to_end(self, held: Held, why: str) -> None:
        logger.warning("crisper: ending the body of %s: %s", held.task_id, why)
        held.stopped = why

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

    def _keep_asking(self, held: Held) -> None:
        """A parked claim is confirmed, so the next recorder must be asked anew."""
        _, *about = self._claim_item(held)
        self.link.keep_standing(held.seq, (wire.CLAIM_AGAIN, *about))

    def _give_prefetch(self, held: Held) -> None:
        """A parked delivery gives its prefetch slot back, as Celery does for an ETA."""
        consumer = self.worker.consumer
        if consumer is not None and consumer.qos is not None and not self._prefetch_is_static(consumer):
            consumer.qos.increment_eventually()

    def _take_prefetch(self, held: Held) -> None:
        consumer = self.worker.consumer
        if consumer is not None and consumer.qos is not None and not self._prefetch_is_static(consumer):
            consumer.qos.decrement_eventually()

    def _prefetch_is_static(self, consumer: Any) -> bool:
        if self._static[0] != self.generation:
            self._static = self.generation, prefetch_is_static(consumer)
        return self._static[1]

    def _make_room(self) -> None:
        """Where the prefetch is static, what is parked would fill it up: such a consumer begins anew."""
        parked = Counter(
            str((held.request._message.delivery_info or {}).get("consumer_tag"))
            for held in self._by_seq.values()
            if held.stage is Stage.PARKED and held.generation == self.generation
        )
        consumer = self.worker.consumer
        task_consumer = getattr(consumer, "task_consumer", None)
        if not parked or task_consumer is None or self._closing() or not self._prefetch_is_static(consumer):
            return
        room = consumer.initial_prefetch_count or math.inf
        begin_anew(task_consumer, [tag for tag, count in parked.items() if 2 * count >= room])

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

    def _let_go(self, held: Held, was: Stage) -> None:
        """The delivery will not run here: give back its slot and prefetch, and forget it."""
        if held.has_slot and held.generation == self.generation:
            self._release_slot(held)
        held.has_slot = False
        if was is Stage.PARKED:
            self._take_prefetch(held)
        worker_state.reserved_requests.discard(held.request)
        if worker_state.requests.get(held.task_id) is held.request:
            del worker_state.requests[held.task_id]
        self._forget(held)

    def _forget(self, held: Held) -> None:
        if held.seq not in self._dropped:
            self.link.sit(held.seq)
        self._by_seq.pop(held.seq, None)
        if self._by_message.get(held.message_id) is held:
            self._next_holder(held)

    def _next_holder(self, gone: Held) -> None:
        """Of copies that are held, one takes the place: what is delivered from now on is a copy of it, and
        not a newer delivery that the registry would grant what it has granted to that one."""
        del self._by_message[gone.message_id]
        if not self._copies:
            return
        for held in self._by_seq.values():
            over = held.muted or held.stage is Stage.DROPPED or held.generation != self.generation
            if held.message_id == gone.message_id and not over:
                self._by_message[gone.message_id] = held
                return

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

    # -- the way through the pool ---------------------------------------------

    def accepted(self, held: Held, pid: int) -> None:
        """The pool began the body."""
        if held.muted:
            self._stop_unless_ended(held)
        if held.muted or held.finish_seq:
            return
        held.accepted, held.accepted_at = True, monotonic_ms()
        pid = pid if self._is_prefork() else self.link.pid
        item = (wire.START, monotonic_ms(), held.seq, held.task_id, pid)
        self.link.stand(held.seq, item)
        if self._is_prefork():
            self._maybe_flush()
        else:  # the body may keep this very thread, and what dies with it must be known to have begun
            self.link.flush()

    def _is_prefork(self) -> bool:
        return bool(self.worker.pool.uses_semaphore)

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
        self._forget(held)
        self._maybe_flush()

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
        for seq in [seq for seq, (last, *_) in self._dropped.items() if max(last, self.link.since) < durable]:
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
        nobody may have it any more: a courier looks after it."""
        if held.number <= 1:
            self._release(held, why)
        else:
            self._lose(held, why)

    def _record(self, item: Callable[[int], Item]) -> int:
        """Number a record and send it. Confirmations are by number, so the two go together."""
        with self.link.in_order:
            seq = self.link.number()
            self.link.record(seq, item(seq))
        return seq

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

    def note(self, kind: str, task_id: str | None, data: dict[str, Any]) -> None:
        """An event for the record."""
        self._record(lambda seq: (wire.NOTE, monotonic_ms(), seq, kind, task_id, data))
        self._maybe_flush()

    def when_durable(self, held: Held, call: Callable[[], None]) -> None:
        """Acknowledge once the outcome is durable. While no loop runs, wait for it here."""
        if self._closing() and not self._on_other_thread():
            self.settle(held.finish_seq, seconds=5.0)
        self.link.when_durable(held.finish_seq, call, held.request._crisper_forget_delivery)

    def _on_other_thread(self) -> bool:
        """Whether a thread of ours receives even while the worker is closing."""
        return self._dispatcher is not None

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

    # -- connections, shutdown, fences ----------------------------------------

    def new_connection(self) -> None:
        """The consumer has a new broker connection: deliveries of the old one cannot be acked."""
        self.generation += 1
        self._claims.forget_queues()
        self._take_back()
        for held in list(self._by_seq.values()):
            if held.stage is not Stage.DISPATCHED:
                self._drop(held, "its connection was lost before it began")
        self._maybe_flush()

    def _take_back(self) -> None:
        """Kombu restores what was unacknowledged when its connection closes: in vain, if the broker was
        away by then. Redis would keep it for the visibility timeout; whatever comes of handing
        it back, the gate decides: what runs here adopts it."""
        left = {
            str(held.request._message.delivery_tag): held.received_at
            for held in self._by_seq.values()
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

    def held(self) -> list[Held]:
        """All of them, from any thread."""
        return list(self._by_seq.values())

    def unaccepted(self) -> list[Held]:
        return [h for h in self._by_seq.values() if h.stage is Stage.DISPATCHED and not h.accepted]

    def running(self) -> list[Held]:
        return [h for h in self._by_seq.values() if h.stage is Stage.DISPATCHED]

    def fenced(self) -> None:
        """This incarnation was declared lost: nothing it still does may count."""
        logger.error(
            "crisper: this worker was declared lost while it was silent; what it ran is fenced,"
            " and it goes on under a new incarnation"
        )
        unheard = [copy(held) for held in self._asking.values()]
        provisional = {h.seq: h for h in self._by_seq.values() if self._is_provisional(h)}
        fenced = [held for held in self._by_seq.values() if held.seq not in provisional]
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
        going_on = {seq: lost for seq, lost in self._lost.items() if lost[0].seq in self._provisional}
        for seq, (held, _) in self._lost.items():
            if seq in going_on:
                continue
            held.muted = True
            if held.acks_late:
                held.request._crisper_forget_delivery()
        for known in (self._by_seq, self._by_message, self._asking, self._lost, self._dropped):
            known.clear()
        self._by_seq.update(provisional)
        self._by_message.update({held.message_id: held for held in provisional.values()})
        self._lost.update(going_on)
        self.on_fenced()
        for held in unheard:
            self._take_back_unheard(held)
        for held in unclaimed:
            self._claim_anew(held)

    def _is_provisional(self, held: Held) -> bool:
        """Whether it runs by the journal's rules: no attempt of the registry, so no fence is over it."""
        return held.seq in self._provisional and held.stage in (Stage.GRANTED, Stage.DISPATCHED)

    def goes_on(self, seq: int) -> bool:
        """Whether what is said of this claim is true under the next incarnation as well."""
        return seq in self._provisional

    def _take_back_unheard(self, held: Held) -> None:
        """A recorder that died may have let it run by its journal, which goes on record under the next
        incarnation whenever that is replayed."""
        self._keep_asking(held)
        self._dropped[held.seq] = (sys.maxsize, held, State.RELEASED, "its delivery was claimed anew")

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

    def _stop_unless_ended(self, held: Held) -> None:
        """Again and again, until it has ended: its process may not have come to the body yet."""
        if held.stage is Stage.DISPATCHED and self._is_prefork() and not self._closing():
            self._stop(held, held.request.worker_pid)
            self.worker.timer.call_after(STOP_SECONDS, self._stop_unless_ended, (held,))

    def _stop(self, held: Held, pid: int | None, number: int = signal.SIGKILL) -> bool:
        """Signal the pool process that runs the attempt now; pools without processes have none."""
        return self._is_prefork() and end(self.worker.pool, self.slots, held.seq, pid, number)

    def late(self, held: Held, state: State, reason: str | None, runtime: float | None) -> None:
        """A fenced attempt ended: that changes nothing, and is kept as an event."""
        runtime_ms = None if runtime is None else int(runtime * 1000)
        why = "its incarnation was fenced"
        data = {"number": held.number, "state": state.value, "reason": reason, "why": why}
        self.note("late_finish", held.task_id, {**data, "runtime_ms": runtime_ms})

    def mute_forget(self, held: Held) -> None:
        """A fenced attempt ended: its delivery goes back, or is somebody else's already."""
        held.stage = Stage.CLOSED
        held.request._crisper_forget_delivery()

    def goodbye(self) -> None:
        """After the consumer gave everything back: close what is open, each as what it is."""
        self.generation += 1  # nothing can be acknowledged any more
        asked = [held.seq for held in self._by_seq.values() if held.stage is Stage.ASKED]
        heard = self.settle(max(asked, default=0), seconds=5.0)  # the loop may have ended before its answers
        for held in list(self._by_seq.values()):
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

    # -- odds and ends --------------------------------------------------------

    def on_timer(self) -> None:
        """Once a second: the loop's tick, and deliveries that waited long enough."""
        self.ticked_at = monotonic_ms()
        counted = {"errors": self.errors, "held": len(self._by_seq), "refused": self.refused}
        consuming = is_consuming(self.worker) and not self.pausing.why
        self.link.send((wire.TICK, self.ticked_at, {**counted, "consuming": consuming}))
        self._make_room()
        self.pausing.enforce()
        now = time.monotonic()
        for held in list(self._by_seq.values()):
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

    def use_dispatcher(self) -> None:
        """Without an event loop: receive on a thread of our own, dispatch on another."""
        self._dispatcher = Dispatcher(self.run_granted, self._wait_for_room)
        self._dispatcher.start()
        threading.Thread(target=self._receive_for_ever, name="crisper-receive", daemon=True).start()

    def _wait_for_room(self) -> None:
        """What waits inside the pool would run even if a fence or an order to stop it came meanwhile; here
        it does not."""
        pool: Any = getattr(self.worker.pool, "_pool", None)
        room = getattr(pool, "_putlock", None)
        if room is not None:
            with room:
                pass
        elif hasattr(pool, "wait_available"):  # gevent's
            pool.wait_available()

    def _receive_for_ever(self) -> None:
        while not self.link._closed:
            self.link.wait(1.0)
            self.receive()

    def _maybe_flush(self) -> None:
        """The loop flushes once per turn; where no loop turns, or from another thread, we do."""
        if self.worker.hub is None or threading.get_ident() != _LOOP_THREAD or self._closing():
            self.link.flush()

    @contextlib.contextmanager
    def counted(self, doing: str) -> Iterator[None]:
        try:
            yield
        except Exception:
            self.count_error(doing)

    def count_error(self, doing: str) -> None:
        """Our own trouble never kills a task, and is never silent."""
        self.errors += 1
        logger.exception("crisper: internal error while %s; Celery goes on without us", doing)
