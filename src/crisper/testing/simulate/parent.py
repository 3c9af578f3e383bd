"""The worker's parent: deliveries from claim to acknowledgement, as `crisper.celery.deliveries` has it."""

from __future__ import annotations

import sys
from collections import deque
from copy import copy
from typing import TYPE_CHECKING, Any

from crisper.celery.held import Stage
from crisper.core.model import ChildLost, Finish, Note, Start
from crisper.core.states import State
from crisper.testing.simulate import truths
from crisper.testing.simulate.answers import Answers
from crisper.testing.simulate.broker import Connection, Delivery
from crisper.testing.simulate.errands import Errands
from crisper.testing.simulate.held import NOT_CLAIMED, Held
from crisper.testing.simulate.history import Body
from crisper.testing.simulate.link import Link
from crisper.testing.simulate.plan import SETTINGS
from crisper.testing.simulate.pool import Pool
from crisper.testing.simulate.recorder import Recorder
from crisper.testing.simulate.saving import Saving
from crisper.testing.simulate.world import Thread

if TYPE_CHECKING:
    from crisper.testing.simulate.life import Life, Site

CONCURRENCY, PREFETCH = 2, 4
TICK_MS, KEEPER_MS, SILENT_MS = 1_000, 300, 3_000
PUT_BACK_MS, STOP_MS = 1_500, 200


class Parent(Answers, Errands):
    """Runs on the loop's thread; the courier and the upkeep have their own."""

    def __init__(self, site: Site, life: Life) -> None:
        self.site, self.life, self.world, self.host = site, life, site.world, life.host
        self.process = life.process
        self.loop = Thread(self.process, life.name)
        self.courier = Thread(self.process, f"{life.name}/courier")
        self.upkeep = Thread(self.process, f"{life.name}/upkeep")
        self.keeper = Thread(self.process, f"{life.name}/keeper")
        self.link = Link(self.world, self.loop)
        self.pool = Pool(self)
        self.words: list[Finish | Saving] = []  # the socket of the children's datagrams
        self.ticked = 0  # when the loop last did, by the host's clock
        self.generation = 0
        self.connection = Connection(life.name)
        self.held: dict[int, Held] = {}
        self.by_message: dict[str, Held] = {}
        self.asking: dict[int, Held] = {}
        self.lost: dict[int, Held] = {}
        self.provisional: set[int] = set()
        self.dropped: dict[int, tuple[int, Held]] = {}
        self.ready: deque[Held] = deque()  # Celery wants them run, and waits for a slot
        self.pausing = self.closing = self.cold = False
        self.recorders = 0
        self._wakes = self._fetches = False
        self._silent_since: int | None = None

    def start(self) -> None:
        self.life.next_incarnation()
        self.world.history.tell(self.life.name, "starts", incarnation=self.life.incarnations[-1])
        self._spawn()
        self.site.broker.consumers.append(self)
        self.world.after(TICK_MS, self.loop, self._tick)
        self.world.after(KEEPER_MS, self.keeper, self._keep)
        self.start_upkeep()
        self.message_waits()

    # -- the recorder ----------------------------------------------------------

    def _spawn(self) -> None:
        self.recorders += 1
        recorder = Recorder(self.site, self.life, self.recorders)
        self.life.recorder = recorder
        self.link.attach(recorder, self._greeting())

    def _greeting(self) -> dict[str, Any]:
        return {
            "incarnation": self.life.incarnation(),
            "journal": self.site.plan.journal,
            "grace_ms": int(SETTINGS.redelivery_grace * 1000),
        }

    def _keep(self) -> None:
        """A recorder that is dead, or silent for long, is replaced."""
        recorder = self.life.recorder
        assert recorder is not None
        silent = recorder.process.paused
        self._silent_since = (self._silent_since or self.world.now) if silent else None
        too_long = self._silent_since is not None and self.world.now - self._silent_since > SILENT_MS
        if not recorder.process.alive or too_long:
            self.world.kill(recorder.process, "is replaced")
            self._silent_since = None
            if not self.life.said_goodbye:
                self._spawn()
        self.world.after(KEEPER_MS, self.keeper, self._keep)

    # -- the broker ------------------------------------------------------------

    def message_waits(self) -> None:
        if not self._fetches:
            self._fetches = True
            self.world.after(self.world.rng.randrange(12), self.loop, self._fetch)

    def _fetch(self) -> None:
        self._fetches = False
        if self.closing or self.pausing or self.site.broker.away or not self.connection.open:
            return
        if not self.site.broker.queue:
            return
        counted = sum([one.stage is not Stage.PARKED for one in self.held.values()])
        if counted >= PREFETCH:
            return
        popped = self.site.broker.pop()
        if popped is None:
            return
        if self.site.broker.kind == "redis":
            try:
                self.world.risk(self.process, "between Redis' list and unacked")
            except BaseException:
                popped[0].vanished = True
                self.world.history.seen("a message that vanished in Redis")
                raise
        delivery = self.site.broker.deliver(popped, self.connection)
        self.world.history.tell(self.life.name, "receives", message=delivery.message.id,
                                redelivered=delivery.redelivered)  # fmt: skip
        self.world.risk(self.process, "before it claims")
        self._receive(delivery)
        self.message_waits()

    def _receive(self, delivery: Delivery) -> None:
        holder = self.by_message.get(delivery.message.id)
        if holder is not None and holder.muted:
            holder = None
        same_connection = holder is not None and holder.generation == self.generation
        is_copy = holder is not None and (
            not delivery.redelivered or (same_connection and holder.delivery.tag != delivery.tag)
        )
        if holder is not None and not is_copy:
            self._redelivered(holder, delivery)
            return
        held = Held(self.link.number(), delivery, self.generation, self.world.now)
        held.is_copy = is_copy
        self.held[held.seq] = self.asking[held.seq] = held
        if holder is None:
            self.by_message[held.message_id] = held
        self.link.record(held.seq, ["claim", self.host.ms(), held.claim()])
        self._want(held)

    def _redelivered(self, holder: Held, delivery: Delivery) -> None:
        """The broker gave us again what we have."""
        if holder.stage is Stage.DISPATCHED:
            self.world.history.seen("an adopted redelivery")
            self.world.history.tell(self.life.name, "adopts", message=holder.message_id)
            holder.acknowledged = False
            self.note("adopted", holder)
        else:
            if holder.has_slot and holder.generation == self.generation:
                holder.has_slot = False
            self._want(holder)
        holder.delivery, holder.generation = delivery, self.generation

    def _want(self, held: Held) -> None:
        if held not in self.ready:
            self.ready.append(held)
        self.world.after(0, self.loop, self.pump)

    def connection_ends(self, sees_ms: int) -> None:
        """The process is gone, and its socket with it."""
        if self in self.site.broker.consumers:
            self.site.broker.consumers.remove(self)
        connection = self.connection
        self.world.after(sees_ms, None, lambda: self.site.broker.close(connection, restores=False))

    def loses_connection(self, restores: bool) -> None:
        """The connection broke; the loop finds out, and connects anew."""
        self.site.broker.close(self.connection, restores=restores)
        self.world.after(self.world.rng.randrange(5, 600), self.loop, self._reconnect)

    def _reconnect(self) -> None:
        if self.connection.open or self.closing:
            return
        if self.site.broker.away:
            self.world.after(200, self.loop, self._reconnect)
            return
        self.connection = Connection(self.life.name)
        self.generation += 1
        self.world.history.tell(self.life.name, "connects anew")
        self.leave_behind()
        for held in list(self.held.values()):
            if held.stage is not Stage.DISPATCHED:
                self._drop(held, "its connection was lost before it began")
        self.ready.clear()
        self.message_waits()

    # -- to the pool -----------------------------------------------------------

    def pump(self) -> None:
        """Slots for whoever waits for one, in order."""
        while self.ready and not self.closing:
            if self.pool.running() + sum(one.has_slot for one in self.held.values()) >= CONCURRENCY:
                return
            held = self.ready.popleft()
            if held.seq not in self.held:
                continue
            if held.stage is Stage.GRANTED:
                self.to_pool(held)
            elif held.stage is Stage.ASKED:
                held.has_slot = True
                self.link.amend_dispatched(held.seq)
            elif held.stage in (Stage.PARKED, Stage.UNANSWERABLE):
                held.wants_to_run = True

    def to_pool(self, held: Held) -> None:
        held.has_slot, held.stage = False, Stage.DISPATCHED
        if not held.acks_late:
            self.link.send(["start", self.host.ms(), Start(held.seq, held.task.id, 0, 0)])
        self.pool.run(held)

    def accepted(self, held: Held, pid: int) -> None:
        """The pool began the body; what is acknowledged early is acknowledged now."""
        if held.muted:
            self.pool.stop(held)
        if not held.muted and not held.finish_seq:
            held.accepted = True
            self.link.stand(held.seq, ["start", self.host.ms(), Start(held.seq, held.task.id, pid, 1)])
        if not held.acks_late:
            if held.muted:
                self.forget_delivery(held)
            else:
                self.acknowledge(held)

    def body_ended(self, held: Held, state: State) -> None:
        """The pool says how it ended."""
        self.world.risk(self.process, "before it records an outcome")
        self.world.after(0, self.loop, self.pump)
        if held.muted:
            self.note("late_finish", held)
            self.world.history.seen("a late finish")
            self.forget_delivery(held)
            return
        if held.finish_seq or held.stage is Stage.CLOSED:
            return
        held.stage = Stage.CLOSED
        self.finish(held, state, self.host.ms())
        self.forget(held)
        if not held.acknowledged:
            self.link.when_durable(
                held.finish_seq, lambda: self.acknowledge(held), lambda: self.forget_delivery(held)
            )
        self.message_waits()

    def child_died(self, held: Held, *, counted: bool = True) -> None:
        """The pool process died under the body."""
        self.world.after(0, self.loop, self.pump)
        if held.muted:
            self.forget_delivery(held)
        if held.muted or held.finish_seq:
            return
        self.lose(held, counted=counted)
        self.lost[held.finish_seq] = held
        held.stage = Stage.CLOSED
        self.forget(held)
        self.message_waits()

    def lose(self, held: Held, *, counted: bool) -> None:
        seq = held.finish_seq = self.link.number()
        loss = ChildLost(seq, held.seq, held.task.id, counted, {"how": "process died"})
        self.link.record(seq, ["lost", self.host.ms(), loss])

    def finish(self, held: Held, state: State, at: int) -> None:
        seq = held.finish_seq = self.link.number()
        runtime = None if held.body is None else held.task.runtime
        self.link.record(seq, ["finish", at, Finish(seq, held.seq, held.task.id, state, None, runtime)])

    def note(self, kind: str, held: Held) -> None:
        seq = self.link.number()
        self.link.record(
            seq, ["note", self.host.ms(), Note(seq, kind, held.task.id, {"number": held.number})]
        )

    def forget(self, held: Held) -> None:
        if held.seq not in self.dropped:
            self.link.sit(held.seq)
        self.held.pop(held.seq, None)
        if self.by_message.get(held.message_id) is held:
            del self.by_message[held.message_id]
            for one in self.held.values():
                over = one.muted or one.stage is Stage.DROPPED or one.generation != self.generation
                if one.message_id == held.message_id and not over:
                    self.by_message[held.message_id] = one
                    return

    # -- acknowledging ---------------------------------------------------------

    def acknowledge(self, held: Held) -> None:
        """The delivery is destroyed, if the broker hears of it."""
        if held.acknowledged:
            return
        self.world.risk(self.process, "before it acknowledges")
        held.acknowledged = True
        truths.acknowledges(self, held)
        if held.generation == self.generation and self.site.broker.acknowledge(held.delivery):
            self.world.history.tell(self.life.name, "acknowledges", message=held.message_id)
        self.message_waits()

    def requeue(self, held: Held) -> None:
        if not held.acknowledged:
            held.acknowledged = True
            if held.generation == self.generation and self.site.broker.requeue(held.delivery):
                self.world.history.tell(self.life.name, "gives back", message=held.message_id)
            self.message_waits()

    def forget_delivery(self, held: Held) -> None:
        """A fenced one: AMQP has it back, the gate decides where it lands; on Redis nothing is touched."""
        if self.site.broker.kind == "amqp":
            self.requeue(held)
        held.acknowledged = True

    # -- connections, fences ---------------------------------------------------

    def _drop(self, held: Held, why: str) -> None:
        if held.stage is Stage.DROPPED:
            return  # on an earlier connection; its answer is still to come
        was, held.stage, held.has_slot = held.stage, Stage.DROPPED, False
        if self.by_message.get(held.message_id) is held:
            del self.by_message[held.message_id]
        if was is Stage.GRANTED:
            self.finish(held, State.RELEASED, self.host.ms())
        elif was is Stage.PARKED:
            self.drop_claim(held)
        if was is not Stage.ASKED:
            self.forget(held)

    def fenced(self) -> None:
        """This incarnation was declared lost: nothing it still does may count."""
        self.world.history.tell(self.life.name, "learns that it is fenced")
        unheard = [copy(held) for held in self.asking.values()]
        provisional = {h.seq: h for h in self.held.values() if h.seq in self.provisional and h.is_open}
        fenced = [held for held in self.held.values() if held.seq not in provisional]
        unclaimed = [held for held in fenced if held.stage in NOT_CLAIMED]
        for held in fenced:
            if held.stage in NOT_CLAIMED:
                continue
            was, held.muted = held.stage, True
            if was is Stage.DISPATCHED:
                self.world.after(STOP_MS, self.loop, self.pool.stop, held)
            else:
                held.stage, held.has_slot = Stage.DROPPED, False
                self.forget_delivery(held)
                self.forget(held)
        going_on = {seq: held for seq, held in self.lost.items() if held.seq in self.provisional}
        for seq, held in self.lost.items():
            if seq not in going_on:
                held.muted = True
                if held.acks_late:
                    self.forget_delivery(held)
        self.held, self.lost, self.asking, self.dropped = dict(provisional), going_on, {}, {}
        self.by_message = {held.message_id: held for held in provisional.values()}
        self.life.next_incarnation()
        self.link.greet(self._greeting(), lambda seq: seq in self.provisional)
        for held in unheard:
            self.take_back_unheard(held)
        for held in unclaimed:
            self.claim_anew(held)
        self.message_waits()

    def take_back_unheard(self, held: Held) -> None:
        """A recorder that died may have let it run by its journal."""
        self.link.standing[held.seq] = ["again", self.host.ms(), held.claim()]
        self.dropped[held.seq] = (sys.maxsize, held)

    def claim_anew(self, held: Held) -> None:
        if held.stage is Stage.UNANSWERABLE:
            held.stage = Stage.ASKED
        held.put_back_at, held.asked_at = None, self.world.now
        held.is_copy = held.message_id in self.by_message
        held.seq = self.link.number()
        self.held[held.seq] = self.asking[held.seq] = held
        self.by_message.setdefault(held.message_id, held)
        self.link.record(held.seq, ["claim", self.host.ms(), held.claim()])
        if held.stage is Stage.PARKED:
            self.link.standing[held.seq] = ["again", self.host.ms(), held.claim()]

    def body_of(self, held: Held) -> Body:
        body = Body(self.world.serially(), held.message, self.life.name, self.life.incarnations[-1], held.seq)
        body.provisional = held.seq in self.provisional
        held.body = body
        return body
