"""Replaying a journal: its lines become records in the registry, in order, each once.

Killed in the middle it begins again: records are numbered, and the store applies
each once. What was claimed in the journal is recorded under whichever incarnation
replays it; what happened to attempts of an incarnation that is over meanwhile is
kept as late finishes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from crisper.core.model import (
    Answer,
    Checkpoint,
    ChildLost,
    Claim,
    Fence,
    Finish,
    Note,
    Published,
    Record,
    Start,
)
from crisper.core.states import State
from crisper.engine.journal import Journal
from crisper.engine.lines import Ended, Life, Told, gives_back
from crisper.errors import Fenced
from crisper.store.base import Store

#: Lines in one transaction, and bytes.
BATCH, BATCH_BYTES = 500, 8 * 2**20

#: Records records under the fence that holds.
RecordAll = Callable[[list[Record]], list[Answer]]


class Clock(NamedTuple):
    """Now, as the host sees it, in milliseconds."""

    monotonic: int
    wall: int
    boot_id: str


class Replay:
    """One journal on its way into the registry. `step` is one transaction, or two."""

    def __init__(self, journal: Journal) -> None:
        self._journal, self._at = journal, 0
        self._life: Life | None = None
        self._journaled: set[int] = set()  # claims whose outcome has not come yet
        self._given_back: set[int] = set()  # claims whose deliveries are not this worker's any more
        self._seen = 0  # so far was looked for those

    def close(self) -> None:
        """The journal is read to its end, and stays as it is."""
        self._journal.close()

    @property
    def is_done(self) -> bool:
        return self._at >= self._journal.end

    def step(self, store: Store, fence: Fence, record: RecordAll, clock: Clock) -> list[Answer]:
        """The next lines. Returns what became of the claims among them.

        Raises `RegistryUnreachable` and `Fenced`; nothing is forgotten then.
        """
        self._look_ahead()
        life, journaled = self._life, set(self._journaled)
        mine: list[Record] = []
        late: dict[str, list[Record]] = {}
        published: dict[int, list[Published]] = {}
        at = self._at
        for count, found in enumerate(self._journal.lines(at), 1):
            at = found.next
            line = found.line
            if isinstance(line, Life):
                life = line
            elif isinstance(line, Told) and life is not None:
                told = self._aged(line, life, clock)
                if isinstance(told, Published):
                    published.setdefault(life.grace_ms, []).append(told)
                elif _is_of(told, life, fence, journaled):
                    mine.append(told)
                else:
                    late.setdefault(str(life.incarnation["id"]), []).append(told)
            if count >= BATCH or at - self._at >= BATCH_BYTES:
                break
        else:
            at = self._journal.end
        for grace_ms, messages in published.items():
            store.publish(messages, due_in_ms=grace_ms)
        for id, records in late.items():
            _keep_late(store, id, records)
        answers = record(mine) if mine else []
        self._at, self._life, self._journaled = at, life, journaled
        claims = {r.seq for r in mine if isinstance(r, Claim)}
        return [answer for answer in answers if answer.seq in claims]

    def _look_ahead(self) -> None:
        for found in self._journal.lines(self._seen, of=gives_back):
            record = found.line.record if isinstance(found.line, Told) else None
            if isinstance(record, Finish) and record.state is State.RELEASED:
                self._given_back.add(record.claim_seq)
        self._seen = self._journal.end

    def _aged(self, line: Told, life: Life, clock: Clock) -> Record | Published:
        """Its age by the monotonic clock, if it is still the same boot; else by the host's own."""
        same_boot = life.incarnation.get("boot_id") == clock.boot_id
        age = clock.monotonic - line.at if same_boot else clock.wall - line.wall
        record = line.record
        if isinstance(record, Claim):
            given_back = record.seq in self._given_back
            record = record._replace(provisional=str(life.incarnation["id"]), given_back=given_back)
        aged: Record | Published = record._replace(age_ms=max(0, age))
        return aged


def _is_of(record: Record, life: Life, fence: Fence, journaled: set[int]) -> bool:
    """Whether the fence that holds may record it: it is its own, or it is about a claim of the journal."""
    if isinstance(record, Claim):
        journaled.add(record.seq)
        return True
    known = isinstance(record, Start | Checkpoint | Finish | ChildLost) and record.claim_seq in journaled
    if known and isinstance(record, Finish | ChildLost):
        journaled.discard(record.claim_seq)
    return known or isinstance(record, Note) or life.incarnation["id"] == fence.incarnation


def open_claims(journal: Journal) -> set[int]:
    """Claims of the journal whose outcome it does not hold."""
    claims: set[int] = set()
    for found in journal.lines():
        record = found.line.record if isinstance(found.line, Told) else None
        if isinstance(record, Claim):
            claims.add(record.seq)
        elif isinstance(record, Finish | ChildLost):
            claims.discard(record.claim_seq)
    return claims


def last_life(journal: Journal) -> tuple[Life | None, str | None]:
    """Who wrote last, and the reason if it ended in order."""
    life, ended = None, None
    for found in journal.lines():
        if isinstance(found.line, Life):
            life, ended = found.line, None
        elif isinstance(found.line, Ended):
            ended = found.line.reason
    return life, ended


def _keep_late(store: Store, id: str, records: list[Record]) -> None:
    try:
        store.record(Fence(id, 0), records)
    except Fenced:
        return
