"""What the parent does with its recorder's answers, as `crisper.celery.deliveries` has it."""

from __future__ import annotations

from collections import deque
from copy import copy
from typing import TYPE_CHECKING, Any

from crisper.celery.held import Stage
from crisper.core.states import State
from crisper.engine.running import Unnoticed
from crisper.testing.simulate.held import Held

if TYPE_CHECKING:
    from crisper.testing.simulate.life import Life, Site
    from crisper.testing.simulate.link import Link
    from crisper.testing.simulate.place import Host
    from crisper.testing.simulate.pool import Pool
    from crisper.testing.simulate.world import Process, Thread, World


class Answers:
    """The parent's half that listens. The other half says what to do."""

    site: Site
    life: Life
    world: World
    host: Host
    process: Process
    loop: Thread
    link: Link
    pool: Pool
    generation: int
    held: dict[int, Held]
    by_message: dict[str, Held]
    asking: dict[int, Held]
    lost: dict[int, Held]
    provisional: set[int]
    dropped: dict[int, tuple[int, Held]]  # parked claims that were taken back, with the last record before
    ready: deque[Held]
    pausing: bool
    closing: bool
    _wakes: bool

    def wake(self, ms: int) -> None:
        if not self._wakes:
            self._wakes = True
            self.world.after(ms, self.loop, self.listen)

    def listen(self) -> None:
        """Take in what the recorder said."""
        self._wakes = False
        items, self.link.inbox = self.link.inbox, []
        for item in items:
            self._take(*item)
        self.link.run_waiting()

    def _take(self, kind: str, *what: Any) -> None:
        if kind == "answers":
            self._answers(*what)
        elif kind == "ready":
            self.link.generation = what[0]
        elif kind == "fenced" and what[0] == self.life.incarnations[-1]:
            self.fenced()
        elif kind == "pause":
            self.pausing = bool(what[0])
            self.message_waits()
        elif kind == "dead":
            self.gone(what[0])
        elif kind == "goodbye":
            self.leave()

    def _answers(self, durable: int, news: list[Any]) -> None:
        self.link.confirm(durable)
        for answer in news:
            if answer.checkpoint and (held := self.held.get(answer.seq)) is not None:
                held.checkpoint = answer.checkpoint
            self._answer(answer.seq, answer.kind, answer.number)
        for seq in [seq for seq in self.asking if seq <= durable]:
            self._answer(seq, "granted", 1)
        for seq in [seq for seq in self.lost if seq <= durable]:
            self._answer(seq, "closed", 0)
        since = self.link.since
        for seq in [seq for seq, (last, _) in self.dropped.items() if max(last, since) < durable]:
            self.link.sit(seq)
            del self.dropped[seq]

    def gone(self, unnoticed: list[Unnoticed]) -> None:
        """Attempts of ours whose process is gone, by what our recorder sees, and whose pool said nothing."""
        for seq, pid, _ in unnoticed:
            held = self.held.get(seq)
            if held is None or held.muted or held.finish_seq:
                continue
            if held.stage is Stage.DISPATCHED and held.accepted:
                self.pool.bury(held, pid)

    def drop_claim(self, held: Held) -> None:
        """A parked claim is taken back; it may have been granted meanwhile, unheard. Should this recorder die
        first, the next one finds out."""
        self.link.send(["drop", 0, held.seq])
        self.link.standing[held.seq] = ["again", self.host.ms(), held.claim()]
        self.dropped[held.seq] = (self.link.seq, copy(held))

    def _granted_in_vain(self, seq: int, kind: str, number: int) -> None:
        _, held = self.dropped.pop(seq, (0, None))
        self.link.sit(seq)
        if held is not None and kind == "parked":
            self.drop_claim(held)
        if held is not None and kind == "granted":
            held.number = number
            self._release_late(held)

    def _release_late(self, held: Held) -> None:
        """Granted when its delivery was gone: its message may have been run meanwhile, by another."""
        if held.number == 1 or (held.number == 0 and held.generation == self.generation):
            self.finish(held, State.RELEASED, self.host.ms())
        else:
            self.lose(held, counted=False)

    def _answer(self, seq: int, kind: str, number: int) -> None:
        self.asking.pop(seq, None)
        if seq in self.lost:
            self._after_loss(self.lost.pop(seq), kind)
            return
        if kind == "granted" and not number:
            self.provisional.add(seq)
        else:
            self.provisional.discard(seq)
        held = self.held.get(seq)
        if held is None:
            self._granted_in_vain(seq, kind, number)
            return
        if kind == "granted":
            self._granted(held, number)
        elif kind == "parked":
            self._parked(held)
        elif kind == "refused":
            self._refused(held)
        elif kind == "overlap":
            self._overlaps(held)
        elif kind == "put_back" and held.stage in (Stage.ASKED, Stage.PARKED):
            if held.stage is Stage.ASKED:
                held.stage = Stage.UNANSWERABLE
            held.wants_to_run |= held.has_slot
            held.has_slot = False
            held.put_back_at = self.world.now + 1_500

    def _after_loss(self, held: Held, kind: str) -> None:
        if not held.acks_late:
            return
        if kind == "closed":
            self.acknowledge(held)
        else:
            self.requeue(held)

    def _granted(self, held: Held, number: int) -> None:
        if held.stage is not Stage.DISPATCHED:
            self.link.sit(held.seq)
        held.number = number
        if held.stage is Stage.DROPPED:
            self._release_late(held)
            self.forget(held)
        elif held.stage is Stage.ASKED:
            held.stage = Stage.GRANTED
            if held.has_slot and not self.closing:
                self.world.risk(self.process, "after its claim, before it begins")
                self.to_pool(held)
            else:
                self._run_if_wanted(held)
        elif held.stage is Stage.PARKED:
            held.stage = Stage.GRANTED
            self._run_if_wanted(held)

    def _run_if_wanted(self, held: Held) -> None:
        if held.wants_to_run:
            held.wants_to_run = False
            self._want(held)

    def _overlaps(self, held: Held) -> None:
        if held.stage is Stage.GRANTED:
            self.forget(held)
            held.stage, held.number = Stage.ASKED, 1
            self.claim_anew(held)

    def _parked(self, held: Held) -> None:
        if held.stage in (Stage.DISPATCHED, Stage.PARKED):
            return
        if held.stage is not Stage.ASKED:
            self.drop_claim(held)
            self.forget(held)
            return
        held.stage = Stage.PARKED
        self.link.standing[held.seq] = ["again", self.host.ms(), held.claim()]
        if held.has_slot:
            held.wants_to_run, held.has_slot = True, False
        self.world.after(0, self.loop, self.pump)
        self.message_waits()

    def _refused(self, held: Held) -> None:
        self.link.sit(held.seq)
        if held.stage is Stage.DISPATCHED:
            return
        held.stage, held.has_slot = Stage.CLOSED, False
        self.forget(held)
        self.world.after(0, self.loop, self.pump)
        if held.generation == self.generation:
            self.acknowledge(held)

    def put_back_now(self, held: Held) -> None:
        """Return the delivery to the broker, once its release is durable."""
        was, held.stage, held.has_slot = held.stage, Stage.DROPPED, False
        if was is Stage.GRANTED:
            self.finish(held, State.RELEASED, self.host.ms())
            held.stage = Stage.CLOSED
        elif was is Stage.PARKED:
            self.drop_claim(held)
        self.forget(held)
        if was is Stage.ASKED:
            self.held[held.seq] = held  # its answer is still to come, and is then released
        if held.generation == self.generation:
            self.link.when_durable(
                held.finish_seq, lambda: self.requeue(held), lambda: self.forget_delivery(held)
            )

    if TYPE_CHECKING:

        def fenced(self) -> None: ...
        def message_waits(self) -> None: ...
        def leave(self) -> None: ...
        def pump(self) -> None: ...
        def acknowledge(self, held: Held) -> None: ...
        def requeue(self, held: Held) -> None: ...
        def forget_delivery(self, held: Held) -> None: ...
        def finish(self, held: Held, state: State, at: int) -> None: ...

        def lose(self, held: Held, *, counted: bool) -> None: ...
        def forget(self, held: Held) -> None: ...
        def to_pool(self, held: Held) -> None: ...
        def claim_anew(self, held: Held) -> None: ...
        def _want(self, held: Held) -> None: ...
