"""The writer: group commit of whatever gathered while the last commit was under way.

Everything it holds can be sent to it again: records are numbered, and the store
applies each once. Times are milliseconds of the host's monotonic clock.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice, takewhile
from typing import NamedTuple

from crisper.core.model import Answer, Checkpoint, ChildLost, Claim, Fence, Finish, Note, Record, Start
from crisper.core.states import State
from crisper.engine.checkpoints import Checkpoints, Due, is_answer
from crisper.errors import Fenced, JournalFull, RegistryUnreachable
from crisper.store.base import Store

#: Records in one transaction: 500 cost 1.1 ms each hundred on PostgreSQL, more gain nothing.
BATCH = 500
#: A start is written this long after it happened, unless the finish comes first:
#: short tasks then cost two row writes, not three.
START_AFTER_MS = 60
#: How often a parked delivery asks again.
PARKED_MS = 250


class Written(NamedTuple):
    """What one commit did."""

    durable: int  # every record numbered up to here is safe
    answers: list[Answer]
    records: int
    #: Why claims had to wait although they could have been written to the journal; empty: none had to.
    waiting: str = ""


class Writer:
    """Owned by one thread. `add` and `heard` only remember; `write` is one commit."""

    def __init__(
        self,
        store: Store | None,
        fence: Fence,
        *,
        renewing: Callable[[], Collection[str]] = lambda: (),
        on_error: Callable[[str], None] = lambda sentence: None,
        strict: bool = True,
    ) -> None:
        self.fence, self.strict = fence, strict
        self._store, self._renewing, self._on_error = store, renewing, on_error
        self._pending: deque[tuple[int, Record]] = deque()
        self._starts: dict[int, tuple[int, Start]] = {}
        self._parked: dict[int, tuple[int, Claim]] = {}
        self._ask_at = 0
        self._again: set[int] = set()  # claims that were parked before our time
        self._unsure: set[int] = set()  # claims that may have been asked for, and the answer was lost
        self._words: dict[int, tuple[int, Finish]] = {}
        self.checkpoints = Checkpoints()
        self._durable = 0
        self.on_committed: Callable[[list[tuple[int, Record]], list[Answer]], None] = lambda batch, answers: (
            None
        )

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def durable(self) -> int:
        """Every record numbered up to here is safe."""
        return self._durable

    def use(self, store: Store | None) -> None:
        """Only now is there a registry to write to; None: not any more."""
        self._store = store

    # -- what comes in --------------------------------------------------------

    def add(self, at: int, record: Record, *, again: bool = False) -> None:
        """A record that happened at `at`; `again`: a claim that a writer before us had parked."""
        if again and isinstance(record, Claim):
            self._again.add(record.seq)
            self._unsure.add(record.seq)  # that writer may have asked, and died before it heard
        if isinstance(record, Start):
            self._starts[record.claim_seq] = (at, record)
            return
        if isinstance(record, (Finish, ChildLost)):
            record = self._closing(record)
        self._pending.append((at, record))

    def _closing(self, record: Finish | ChildLost) -> Record:
        """The child's own word outweighs its death, and its release by a shutdown or its revocation that did
        not hear of the end; a start that was not written yet is merged."""
        self._parked.pop(record.claim_seq, None)  # Celery ended it unasked: expired, revoked
        word = self._words.pop(record.claim_seq, None)
        start = self._starts.get(record.claim_seq)
        if isinstance(record, ChildLost):
            if start is not None:  # that it ran is what its loss is judged by
                self._pending.append(self._starts.pop(record.claim_seq))
            return word[1]._replace(seq=record.seq) if word else record
        if word and record.state in (State.RELEASED, State.REVOKED):
            record = word[1]._replace(seq=record.seq)
        if start is None or record.runtime_ms is None:
            return record
        del self._starts[record.claim_seq]
        return record._replace(pid=start[1].pid or None)

    def heard(self, at: int, word: Finish) -> None:
        """A pool child's own word; it counts only if nobody else brings the outcome."""
        self._words[word.claim_seq] = (at, word)

    def drop(self, seq: int) -> None:
        """The parked delivery is gone. If it was asked for and the answer was lost, it may be granted."""
        at, claim = self._parked.pop(seq, (0, None))
        if claim is not None and seq in self._unsure:
            self._unsure.discard(seq)
            gone = {"how": "its delivery was gone when it was granted"}
            self._pending.append((at, ChildLost(-seq, seq, claim.task_id, False, gone)))

    # -- what goes out --------------------------------------------------------

    def due(self, now: int) -> int | None:
        """Milliseconds until something is to be written; None: nothing is held."""
        if self._pending:
            return 0
        if not (self._starts or self._parked or self.checkpoints):
            return None
        times = [at + START_AFTER_MS for at, _ in self._starts.values()]
        times += self.checkpoints.times()
        if self._parked:
            times.append(self._ask_at)
        return max(0, min(times) - now) if times else None

    def write(self, now: int, *, claims: bool = True) -> Written:
        """Commit what is due. Raises `RegistryUnreachable` (nothing is forgotten) or `Fenced`.

        Without `claims` what stands before the first of them is written: records are confirmed in order.
        """
        wanted = self._pending if claims else takewhile(_is_no_claim, self._pending)
        taken = list(islice(wanted, BATCH))
        starts, checkpoints = self._due_starts(now, len(taken)), self._due_checkpoints(now, taken)
        asked = self._due_parked(now) if claims else []
        batch = [*asked, *_in_order(taken, starts, checkpoints)]
        if not batch:
            return Written(self._durable, [], 0)
        asking = {record.seq for _, record in batch if isinstance(record, Claim)}
        self._unsure |= asking
        answers = self.record([_aged(record, now - at) for at, record in batch])
        self._unsure -= asking
        self.on_committed(batch, answers)
        self._took(taken, starts)
        self.checkpoints.written(checkpoints, "registry", answers)
        return Written(self._durable, self._answered(batch, answers), len(batch))

    def journal(self, now: int, append: Callable[[list[tuple[int, Record]]], None]) -> Written:
        """As `write`, while the registry is away: what is due goes where `append` puts it.

        Claims are let run. Whether one of a redelivered message may, nobody can be asked: it is parked
        where `strict`, as all of them are when `append` raises `JournalFull`; outcomes may still fit.
        """
        self._ask_at = max(self._ask_at, now + PARKED_MS)
        taken = list(islice(self._pending, BATCH))
        starts, checkpoints = self._due_starts(now, len(taken)), self._due_checkpoints(now, taken)
        waiting, full = (
            {r.seq for _, r in taken if isinstance(r, Claim) and r.redelivered and self.strict},
            "",
        )
        batch = list(_without(waiting, _in_order(taken, starts, checkpoints)))
        try:
            if batch:
                append(batch)
        except JournalFull as exc:
            waiting, full = {r.seq for _, r in taken if isinstance(r, Claim)}, str(exc)
            if outcomes := list(_without(waiting, batch)):
                append(outcomes)
        self._took(taken, starts)
        self.checkpoints.written(checkpoints, "journal")
        self._unsure = (self._unsure & self._parked.keys()) | waiting  # a writer before us may have asked
        answers = [_unasked(record, waiting) for _, record in taken if isinstance(record, Claim | ChildLost)]
        return Written(self._durable, self._answered(taken, answers), len(taken) + len(starts), full)

    def _took(self, taken: list[tuple[int, Record]], starts: Iterable[int]) -> None:
        for _ in taken:
            self._pending.popleft()
        for seq in starts:
            del self._starts[seq]
        self._durable = max([self._durable, *(_seq(record) for _, record in taken)])

    def _due_starts(self, now: int, taken: int) -> dict[int, tuple[int, Start]]:
        """By the claim they belong to; one whose claim waits for a later commit waits for it too."""
        if not self._starts:
            return {}
        waiting = {
            record.seq for _, record in islice(self._pending, taken, None) if isinstance(record, Claim)
        }
        return {
            seq: (at, start)
            for seq, (at, start) in self._starts.items()
            if at + START_AFTER_MS <= now and seq not in waiting
        }

    def _due_checkpoints(self, now: int, taken: Collection[tuple[int, Record]]) -> Due:
        return self.checkpoints.due(now, taken, islice(self._pending, len(taken), None))

    def _due_parked(self, now: int) -> list[tuple[int, Claim]]:
        if not self._parked or now < self._ask_at:
            return []
        self._ask_at = now + PARKED_MS
        return [(at, claim) for at, claim in self._parked.values()]

    def _answered(self, batch: Iterable[tuple[int, Record]], answers: list[Answer]) -> list[Answer]:
        """The answers worth sending: a parked one is news only once."""
        claims = {r.seq: (at, r) for at, r in batch if isinstance(r, Claim)}
        ended = {r.claim_seq for _, r in [*batch, *self._pending] if isinstance(r, (Finish, ChildLost))}
        news = []
        for answer in answers:
            if is_answer(answer):
                continue
            if answer.kind == "parked":
                if answer.seq in self._parked or answer.seq in ended:
                    continue
                self._parked[answer.seq] = claims[answer.seq]
            elif self._parked.pop(answer.seq, None) or answer.seq in self._again:
                self._again.discard(answer.seq)
                answer = answer._replace(reason=answer.reason or "no longer parked")
            news.append(answer)
        return news

    def record(self, records: list[Record]) -> list[Answer]:
        """Commit these as they are. One that the registry will not take is set aside, and told."""
        if self._store is None:
            raise RegistryUnreachable("the registry has not answered yet")
        try:
            return self._store.record(self.fence, records, renewing=self._renewing())
        except (RegistryUnreachable, Fenced):
            raise
        except Exception as exc:
            if len(records) == 1:
                return self._set_aside(records[0], exc)
            return [answer for record in records for answer in self.record([record])]

    def _set_aside(self, record: Record, exc: Exception) -> list[Answer]:
        """One record that the registry will not take must not stop the others."""
        self._on_error(f"the registry refused a {type(record).__name__.lower()}: {exc!r}")
        if isinstance(record, Claim):
            return [Answer(record.seq, "put_back", 0, f"it cannot be recorded: {exc}")]
        if isinstance(record, (Checkpoint, Finish, ChildLost)):
            return [Answer(record.seq, "late", 0, f"it cannot be recorded: {exc}")]
        return []

    # -- the end --------------------------------------------------------------

    def keep_late(self, now: int, *, but: Collection[int] = ()) -> None:
        """The fence is over: the registry refuses what is held, and keeps its outcomes as events, `but`
        those of these claims."""
        late = [_aged(record, now - at) for at, record in self.late(but=but)]
        with contextlib.suppress(Fenced):
            if late and self._store is not None:
                self._store.record(self.fence, late)
        self._pending.clear()

    def late(self, *, but: Collection[int]) -> list[tuple[int, Record]]:
        """Outcomes that are held, `but` those of these claims."""
        return [
            (at, record)
            for at, record in self._pending
            if isinstance(record, Finish) and record.claim_seq not in but
        ]

    def inherit(self, over: Writer, claims: Collection[int]) -> None:
        """What children said, and would keep, of claims that go on under our fence."""
        self._words.update({seq: word for seq, word in over._words.items() if seq in claims})
        self.checkpoints.inherit(over.checkpoints, claims)

    def last_words(self, now: int) -> None:
        """The parent is dead: starts are due at once, and children's words become outcomes."""
        self._starts = {seq: (min(at, now - START_AFTER_MS), s) for seq, (at, s) in self._starts.items()}
        self.checkpoints.hurry(now)
        for at, word in self._words.values():
            self._pending.append((at, word))
        self._words.clear()
        self._parked.clear()


def _in_order(
    taken: list[tuple[int, Record]], starts: dict[int, tuple[int, Start]], checkpoints: Due
) -> Iterator[tuple[int, Record]]:
    """What is to be written, starts and checkpoints behind their claims: before they would change nothing."""
    claimed = {record.seq for _, record in taken if isinstance(record, Claim)}
    for of in (starts, checkpoints):
        yield from (one for seq, one in of.items() if seq not in claimed)
    for at, record in taken:
        yield at, record
        if isinstance(record, Claim):
            yield from (of[record.seq] for of in (starts, checkpoints) if record.seq in of)


def _without(seqs: Collection[int], records: Iterable[tuple[int, Record]]) -> Iterator[tuple[int, Record]]:
    for at, record in records:
        if not (isinstance(record, Claim) and record.seq in seqs):
            yield at, record


def _unasked(record: Claim | ChildLost, waiting: Collection[int]) -> Answer:
    """What is answered while nobody can be asked."""
    if isinstance(record, ChildLost):
        return Answer(record.seq, "lost")
    if record.seq in waiting:
        return Answer(record.seq, "parked", 0, "the registry is away")
    return Answer(record.seq, "granted", 0, "the registry is away")


def _is_no_claim(pending: tuple[int, Record]) -> bool:
    return not isinstance(pending[1], Claim)


def _seq(record: Record) -> int:
    return record.seq if isinstance(record, (Claim, Finish, ChildLost, Note)) else 0


def _aged(record: Record, age: int) -> Record:
    age = max(0, age)
    return record if record.age_ms == age else record._replace(age_ms=age)
