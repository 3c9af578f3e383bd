"""What a worker holds of its deliveries, and the parts that everything done with them is made of."""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

from celery.utils.log import get_logger
from celery.worker import state as worker_state

from crisper.celery.brokers.amqp import prefetch_is_static
from crisper.celery.claims import Claims
from crisper.celery.dispatcher import Dispatcher
from crisper.celery.held import Held, Stage
from crisper.celery.inside import Inside
from crisper.celery.lending import Lending
from crisper.celery.link import LOOP_THREAD, Item, Link, monotonic_ms
from crisper.celery.pausing import Pausing
from crisper.celery.slots import Slots
from crisper.core.states import State
from crisper.engine.stalled import Usual
from crisper.recorder import wire
from crisper.settings import Settings

logger = get_logger(__name__)


class Parts(ABC):
    """The books: one `Held` for each attempt."""

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
        self.is_unnoticed: Callable[[int], bool] = lambda pid: False
        self.on_begun_inside: Callable[[Held], None] = lambda held: None
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
        self.lending = Lending(
            worker, link, ahead=settings.recording == "strict", granted=self._granted_waiting,
            failed=self.count_error,
        )  # fmt: skip

    def held(self) -> list[Held]:
        """All of them, from any thread. Others change the books meanwhile: nothing else goes through them."""
        return list(self._by_seq.values())

    def unaccepted(self) -> list[Held]:
        return [held for held in self.running() if not held.accepted]

    def running(self) -> list[Held]:
        return [held for held in self.held() if held.stage is Stage.DISPATCHED]

    def _granted_waiting(self) -> int:
        """For the pool."""
        return len([held for held in self.held() if held.stage is Stage.GRANTED])

    def _closing(self) -> bool:
        """The pool takes no more: what is granted and not begun goes back to the broker."""
        blueprint = self.worker.blueprint
        return blueprint is not None and blueprint.state != 1  # bootsteps.RUN

    def _is_prefork(self) -> bool:
        return bool(self.worker.pool.uses_semaphore)

    def _uses_slots(self) -> bool:
        return getattr(self.worker, "semaphore", None) is not None and self.worker.pool.uses_semaphore

    def _on_other_thread(self) -> bool:
        """Whether a thread of ours receives even while the worker is closing."""
        return self._dispatcher is not None

    def _release_slot(self, held: Held) -> None:
        held.has_slot = False
        release = getattr(self.worker, "_quick_release", None)
        if release is not None and self._uses_slots():
            release()

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
        for held in self.held():
            over = held.muted or held.stage is Stage.DROPPED or held.generation != self.generation
            if held.message_id == gone.message_id and not over:
                self._by_message[gone.message_id] = held
                return

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

    def _give_prefetch(self, held: Held) -> None:
        """A parked delivery gives its prefetch slot back, as Celery does for an ETA: none is left to give
        where `worker_eta_task_limit` is reached."""
        consumer = self.worker.consumer
        if consumer is not None and consumer.qos is not None and not self._prefetch_is_static(consumer):
            before = consumer.qos.value
            held.gave_prefetch = consumer.qos.increment_eventually() > before

    def _take_prefetch(self, held: Held) -> None:
        gave, held.gave_prefetch = held.gave_prefetch, False
        consumer = self.worker.consumer
        if gave and consumer is not None and consumer.qos is not None:
            consumer.qos.decrement_eventually()

    def _prefetch_is_static(self, consumer: Any) -> bool:
        if self._static[0] != self.generation:
            self._static = self.generation, prefetch_is_static(consumer)
        return self._static[1]

    def _record(self, item: Callable[[int], Item]) -> int:
        """Number a record and send it. Confirmations are by number, so the two go together."""
        with self.link.in_order:
            seq = self.link.number()
            self.link.record(seq, item(seq))
        return seq

    def note(self, kind: str, task_id: str | None, data: dict[str, Any]) -> None:
        """An event for the record."""
        self._record(lambda seq: (wire.NOTE, monotonic_ms(), seq, kind, task_id, data))
        self._maybe_flush()

    def _maybe_flush(self) -> None:
        """The loop flushes once per turn; where no loop turns, or from another thread, we do."""
        if self.worker.hub is None or threading.get_ident() != LOOP_THREAD or self._closing():
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

    @abstractmethod
    def receive(self) -> None:
        """Take in what the recorder said."""
