"""Where a worker's records go: to the registry, or to the journal and from there to the registry.

The order of an attempt's records is kept: while the journal holds what the registry
does not, new records go behind it, so no task waits for a replay.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from crisper.core.model import Answer, Claim, Fence, Published, Record
from crisper.engine.circuit import Circuit
from crisper.engine.journal import Journal
from crisper.engine.lines import Ended, Life, Line, Told
from crisper.engine.replay import Clock, Replay, open_claims
from crisper.engine.window import Window
from crisper.engine.writer import Writer, Written
from crisper.errors import JournalError, RegistryMoved, RegistryUnreachable
from crisper.store.base import Store


class State(NamedTuple):
    """How a recording stands, for people and for the heartbeat."""

    journal_bytes: int  # not in the registry yet
    trouble: str  # why the journal takes nothing; empty: it does


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Recording:
    """Joins a writer, a circuit and a journal. Owned by one thread.

    Without a journal what cannot be written waits, and `write` raises `RegistryUnreachable`. With a
    window, what a registry that `may_forget` has committed is kept for when another takes its place.
    """

    def __init__(
        self,
        writer: Writer,
        store: Store | None,
        circuit: Circuit,
        journal: Journal | None,
        life: Life,
        *,
        window: Window | None = None,
        may_forget: Callable[[], bool] = lambda: False,
        on_error: Callable[[str], None] = lambda sentence: None,
        wall: Callable[[], int] = wall_ms,
    ) -> None:
        self.writer, self.circuit, self.journal = writer, circuit, journal
        self._store, self._life, self._wall, self._on_error = store, life, wall, on_error
        self._replay = Replay(journal) if journal is not None and journal.end else None
        self._alive = False  # whether the journal says whose the next line is
        self._trouble = ""
        self._ended = False
        self._window, self._may_forget = window, may_forget
        self._again: deque[Replay] = deque()  # of what was committed, to whom may not have it any more
        self._now = 0
        self.has_moved = False  # another server answers in the registry's place
        writer.on_committed = self._committed

    @property
    def state(self) -> State:
        return State(self.journal.end if self.journal and self._replay else 0, self._trouble)

    @property
    def backlog(self) -> bool:
        """Whether the journal holds what the registry does not."""
        return self._replay is not None or bool(self._again)

    def use(self, store: Store, fence: Fence) -> None:
        """The registry has given us this fence."""
        self._store, self.writer.fence = store, fence
        self.writer.use(store)

    def move(self) -> None:
        """Another server took the registry's place, and may not have what was committed lately: that is
        replayed before anything else, once it has given us a fence."""
        self._store, self.has_moved = None, False
        self.writer.use(None)
        if self._window is not None and not self._again:
            self._again = deque(Replay(journal) for journal in self._window.read())

    # -- what goes out --------------------------------------------------------

    def due(self, now: int) -> int | None:
        """Milliseconds until `write` has something to do; None: nothing is held."""
        due = self.writer.due(now)
        if not self.backlog:
            return due
        opens_in = self.circuit.opens_in()
        if opens_in is None:
            return due
        replay_in = int(opens_in * 1000)
        return replay_in if due is None else min(due, replay_in)

    def write(self, now: int, *, claims: bool = True) -> Written:
        """One commit, or one write to the journal, or that and one step of its replay.

        Raises `Fenced`, and `RegistryUnreachable` where no journal takes the records.
        """
        self._now = now
        if not self.backlog and self.circuit.closed and self._store is not None:
            try:
                written = self.writer.write(now, claims=claims)
            except RegistryUnreachable as exc:
                self._failed(exc)
                return self._journaled(now, exc)
            self.circuit.wrote()
            return written
        replayed = self._replay_some(now) if self.circuit.closed and self._store is not None else []
        if not self.backlog and replayed is not None and self.circuit.closed:
            written = Written(self.writer.durable, [], 0)  # caught up: the next one is a commit
        else:
            written = self._journaled(now, RegistryUnreachable("the registry is away"))
        return written._replace(answers=[*(replayed or ()), *written.answers])

    def _failed(self, why: RegistryUnreachable) -> None:
        self.circuit.write_failed()
        self.has_moved = self.has_moved or isinstance(why, RegistryMoved)

    def _committed(self, batch: Sequence[tuple[int, Record]], answers: Sequence[Answer]) -> None:
        """Keep what changed something: a claim that was granted, and all that became of it."""
        if self._window is None or not self._may_forget():
            return
        granted = {answer.seq for answer in answers if answer.kind in ("granted", "stopped")}
        lines = [
            self._told(at, record)
            for at, record in batch
            if not isinstance(record, Claim) or record.seq in granted
        ]
        try:
            self._window.remember(self._life, lines)
        except (JournalError, OSError) as exc:
            self._window = None
            self._on_error(f"what is committed is not kept for a failover of the registry: {exc}")

    def keep_late(self, now: int) -> None:
        """The fence is over. What is held of its attempts is kept as late finishes; what the journal let run
        goes on under the next fence, and the parent says it again."""
        goes_on = open_claims(self.journal) if self.journal and self._replay else ()
        self.writer.checkpoints.give_up(but=goes_on)
        if self._store is not None:
            self.writer.keep_late(now, but=goes_on)
        elif self.journal is not None and (late := self.writer.late(but=goes_on)):
            self._append(now, late)

    def inherit(self, over: Recording) -> None:
        """Go on with what the journal of a fenced incarnation let run."""
        if self.journal is not None and self._replay is not None:
            self.writer.inherit(over.writer, open_claims(self.journal))

    def stand_in(self, now: int) -> None:
        """Put everything that is held into the journal: the registry does not answer, and we end."""
        while self.writer.due(now) == 0 and self._journaled(now, RegistryUnreachable("it is away")).records:
            pass

    def _journaled(self, now: int, why: RegistryUnreachable) -> Written:
        if self.journal is None:
            raise why
        try:
            written = self.writer.journal(now, lambda records: self._append(now, records))
        except (JournalError, OSError) as exc:
            self._troubled(str(exc))
            raise why from exc
        if not written.waiting:
            self._trouble = ""
        else:
            self._troubled(written.waiting)
        return written

    def _troubled(self, why: str) -> None:
        if not self._trouble:
            self._on_error(f"the journal takes no more tasks while the registry is away: {why}")
        self._trouble = why

    def _append(self, now: int, records: Sequence[tuple[int, Record]]) -> None:
        self._now = now
        self._lines([self._told(at, record) for at, record in records])

    def _told(self, at: int, record: Record) -> Told:
        return Told(at, self._wall() - max(0, self._now - at), record)

    def _lines(self, lines: list[Line]) -> None:
        assert self.journal is not None
        self.journal.append(lines if self._alive else [self._life, *lines])
        self._alive = True
        if self._replay is None:
            self._replay = Replay(self.journal)

    def publish(self, now: int, messages: Sequence[Published]) -> None:
        """Published messages that found no room elsewhere. Raises `JournalError` or `OSError`."""
        if self.journal is None:
            raise JournalError("there is no journal")
        wall = self._wall()
        self._lines([Told(now - one.age_ms, wall - one.age_ms, one) for one in messages])

    def end(self, reason: str) -> None:
        """The worker ends in order, and the registry is away. Repeating it changes nothing."""
        if self.journal is not None and not self._ended:
            self._lines([Ended(reason)])
            self._ended = True

    # -- what comes back ------------------------------------------------------

    def _replay_some(self, now: int) -> list[Answer] | None:
        """What became of the claims that were replayed; None: the registry is away again."""
        replay = self._again[0] if self._again else self._replay
        if replay is None or self._store is None:
            return []
        clock = Clock(now, self._wall(), str(self._life.incarnation.get("boot_id", "")))
        try:
            answers = replay.step(self._store, self.writer.fence, self._record, clock)
        except RegistryUnreachable as exc:
            self._failed(exc)
            return None
        self.circuit.wrote()
        if replay.is_done and self._again:
            self._again.popleft().close()
        elif replay.is_done:
            self._clear()
        return [answer._replace(reason=answer.reason or "on record now") for answer in answers]

    def _record(self, records: list[Record]) -> list[Answer]:
        answers = self.writer.record(records)
        if not self._again:
            self._committed([(self._now - record.age_ms, record) for record in records], answers)
        return answers

    def _clear(self) -> None:
        assert self.journal is not None
        damaged = self.journal.damaged
        self.journal.clear()
        self._replay, self._alive = None, False
        if damaged:
            self._on_error(f"the journal was damaged in {damaged} places; what stood there is not on record")
