"""The parent's end of the wire, as `crisper.celery.link` keeps it: numbered, until they are confirmed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from crisper.testing.simulate.world import Thread, World

if TYPE_CHECKING:
    from crisper.testing.simulate.recorder import Recorder

#: `[kind, when by the host's clock, record or argument]`; a list, because a claim may be amended.
Item = list[Any]


class Link:
    """A wire is FIFO, and what is in it outlives its writer, but not its reader."""

    def __init__(self, world: World, thread: Thread) -> None:
        self._world, self._thread = world, thread
        self.seq = self.durable = self.generation = self.since = 0
        self.unconfirmed: deque[tuple[int, Item]] = deque()
        self.standing: dict[int, Item] = {}
        self.waiting: deque[tuple[int, Callable[[], None], Callable[[], None]]] = deque()
        self.out: list[Item] = []
        self.inbox: list[tuple[Any, ...]] = []
        self.recorder: Recorder | None = None
        self._flushes = False

    def number(self) -> int:
        self.seq += 1
        return self.seq

    def record(self, seq: int, item: Item) -> None:
        self.unconfirmed.append((seq, item))
        self.send(item)

    def stand(self, seq: int, item: Item) -> None:
        self.standing[seq] = item
        self.send(item)

    def sit(self, seq: int) -> None:
        self.standing.pop(seq, None)

    def send(self, item: Item) -> None:
        self.out.append(item)
        if not self._flushes:
            self._flushes = True
            self._world.after(self._world.rng.randrange(2), self._thread, self.flush)

    def amend_dispatched(self, seq: int) -> None:
        """A pool slot is free: the claim says so, if it has not left yet."""
        for item in reversed(self.out):
            if item[0] == "claim" and item[2].seq == seq:
                item[2] = item[2]._replace(dispatched=True)
                return

    def flush(self) -> None:
        self._flushes = False
        if self.recorder is not None and self.out:
            self._world.risk(self._thread.process, "before it has told its recorder")
            self.recorder.inbox += self.out
            self.out = []
            self.recorder.wake(self._world.soon())

    def attach(self, recorder: Recorder, greeting: dict[str, Any]) -> None:
        """A new recorder is told everything again that was not confirmed."""
        self.recorder, self.inbox, self.out = recorder, [], []
        recorder.inbox += [["hello", 0, {**greeting, "generation": self.generation}]]
        recorder.inbox += [item for _, item in self.unconfirmed]
        recorder.inbox += [self.standing[seq] for seq in sorted(self.standing)]
        self.since = self.seq
        recorder.wake(self._world.soon())

    def greet(self, greeting: dict[str, Any], goes_on: Callable[[int], bool]) -> None:
        """A new incarnation; what the old one left unsaid is void, but for what goes on under the new one."""
        self.generation = 0
        kept = {
            seq: item
            for seq, item in self.unconfirmed
            if item[0] in ("finish", "lost") and goes_on(item[2].claim_seq)
        }
        self.unconfirmed = deque(sorted(kept.items()))
        self.standing = {seq: item for seq, item in self.standing.items() if goes_on(seq)}
        void = [one for one in self.waiting if one[0] not in kept]
        self.waiting = deque(one for one in self.waiting if one[0] in kept)
        self.send(["hello", 0, {**greeting, "generation": 0}])
        for item in [*kept.values(), *self.standing.values()]:
            self.send(item)
        for _, _, give_up in void:
            give_up()

    def confirm(self, durable: int) -> None:
        self.durable = max(self.durable, durable)
        while self.unconfirmed and self.unconfirmed[0][0] <= durable:
            self.unconfirmed.popleft()

    def run_waiting(self) -> None:
        while self.waiting and self.waiting[0][0] <= self.durable:
            _, call, _ = self.waiting.popleft()
            call()

    def when_durable(self, seq: int, call: Callable[[], None], give_up: Callable[[], None]) -> None:
        if self.durable < seq:
            self.waiting.append((seq, call, give_up))
        else:
            call()
