"""Adopting what the dead have left: journals of this host whose worker is gone are replayed.

A worker that is gone and still alive by the registry is replayed under its own
fence, which is taken over, and then declared; one that was declared already gets
one more incarnation, which lives only as long as its journal takes.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from crisper.core.model import Answer, Fence, Incarnation, Record, Worker
from crisper.core.states import WorkerState
from crisper.engine.folder import SUFFIX, journals, open_file
from crisper.engine.journal import Journal
from crisper.engine.lines import Life
from crisper.engine.replay import Clock, Replay, last_life
from crisper.engine.sweeper import Host
from crisper.engine.window import SUFFIX as WINDOW_SUFFIX
from crisper.errors import Fenced, JournalUnusable
from crisper.store.base import Store

#: Before the id of a declared incarnation: that of the one that its journal is replayed under.
AFTERLIFE = "j"


#: A folder of many journals is looked through less often, so that a host of many workers stays quiet: at
#: most so many are opened per second by each of them.
LOOKS_PER_SECOND = 20


@dataclass
class Orphan:
    """A journal that is being replayed."""

    path: Path
    journal: Journal
    one: Incarnation
    fence: Fence
    replay: Replay
    ended: str | None  # the reason, if its worker ended in order


class Adopted(NamedTuple):
    """A journal was replayed to its end."""

    worker: str  # its hostname; empty: of a process that only published
    damaged: int  # places that could not be read


class Adopter:
    """Looks through the folder and replays. Owned by one thread; the times are seconds of its own clock."""

    def __init__(
        self,
        store: Store,
        folder: Path,
        registry: str,
        host: Host,
        *,
        clock: Callable[[], Clock],
        lease: float,
        own: str = "",
        only: str = f"*{SUFFIX}",
        windows: bool = False,
    ) -> None:
        """`windows`: what the dead had committed lately, once the registry has moved: only of workers that it
        still takes for alive, because what was committed before somebody's end is there if the end is."""
        self._store, self._folder, self._registry, self._host = store, folder, registry, host
        self._clock, self._lease, self._own, self._windows = clock, lease, own, windows
        self._suffix = WINDOW_SUFFIX if windows else SUFFIX
        self._only = f"*{WINDOW_SUFFIX}" if windows else only
        self._orphan: Orphan | None = None
        self._unlocked: dict[Path, float] = {}  # since when nobody has had it open
        self._not_ours: set[Path] = set()
        self._look_at = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether a journal is being replayed."""
        return self._orphan is not None

    def has_more_to_say(self, id: str) -> bool:
        """Whether a journal of this incarnation is still to be replayed: it should not be declared before."""
        for path in self._folder.glob(f"{id[-16:]}*{self._suffix}"):
            with contextlib.suppress(OSError):
                if path not in self._not_ours and path.stat().st_size:
                    return True
        return False

    def tick(self, now: float) -> Adopted | None:
        """One step. Raises `RegistryUnreachable`; the next tick goes on where this one was."""
        if self._orphan is None:
            self._orphan = self._find(now) if now >= self._look_at else None
        orphan = self._orphan
        if orphan is None:
            return None
        try:
            if not orphan.replay.is_done:
                orphan.replay.step(self._store, orphan.fence, self._recorder(orphan.fence), self._clock())
                return None
            self._end(orphan)
        except Fenced:  # declared meanwhile: once more, under another incarnation
            orphan.journal.close()
            self._orphan = None
            return None
        damaged = orphan.journal.damaged
        orphan.journal.remove()
        self._orphan, self._look_at = None, now  # there may be more
        return Adopted(orphan.one.hostname, damaged)

    def close(self) -> None:
        if self._orphan is not None:
            self._orphan.journal.close()

    def _recorder(self, fence: Fence) -> Callable[[list[Record]], list[Answer]]:
        return lambda records: self._store.record(fence, records)

    # -- finding --------------------------------------------------------------

    def _find(self, now: float) -> Orphan | None:
        there = [path for path in journals(self._folder, self._only) if not self._is_own(path)]
        self._unlocked = {path: since for path, since in self._unlocked.items() if path in there}
        self._not_ours &= set(there)
        self._look_at = now + len(there) / LOOKS_PER_SECOND
        for path in there:
            if path not in self._not_ours and (orphan := self._open(path, now)) is not None:
                return orphan
        return None

    def _is_own(self, path: Path) -> bool:
        return bool(self._own) and path.stem.startswith(self._own)

    def _open(self, path: Path, now: float) -> Orphan | None:
        try:
            file = open_file(path)
        except JournalUnusable:
            self._not_ours.add(path)  # another user's
            return None
        if file is None:
            self._unlocked.pop(path, None)
            return None
        since = self._unlocked.setdefault(path, now)
        journal = Journal(file, most_bytes=0)
        orphan = self._adopt(path, journal, now - since)
        if orphan is None:
            journal.close()
            if self._windows:
                self._not_ours.add(path)
        return orphan

    def _adopt(self, path: Path, journal: Journal, alone: float) -> Orphan | None:
        """`alone`: for so many seconds nobody has had it open."""
        life, ended = last_life(journal)
        if life is None:
            if alone > self._lease:
                journal.remove()  # nothing was ever written
            return None
        if life.registry != self._registry:
            self._not_ours.add(path)
            return None
        one = _incarnation(life)
        known = {worker.id: worker for worker in self._store.alive()}
        if not self._is_gone(one, known.get(one.id), alone):
            return None
        fence = self._fence(one, known)
        return None if fence is None else Orphan(path, journal, one, fence, Replay(journal), ended)

    def _is_gone(self, one: Incarnation, known: Worker | None, alone: float) -> bool:
        """By proof, or because the registry says so; one that it has never heard of, and that cannot be seen
        from here, has left its journal alone for a full lease."""
        gone = self._host.is_gone(known or _as_worker(one))
        if gone is not None:
            return gone
        return known is None and alone > max(self._lease, one.lease_ms / 1000)

    def _fence(self, one: Incarnation, known: dict[str, Worker]) -> Fence | None:
        """Its own, taken over from its recorder, or that of its afterlife. A process that only published
        needs none."""
        if not one.id:
            return Fence("", 0)
        if one.id not in known:
            self._store.enroll(one)  # changes nothing if it is over
            known.update({worker.id: worker for worker in self._store.alive()})
        if one.id not in known and self._windows:
            return None
        while one.id not in known:  # each afterlife may have been declared as well
            one = dataclasses.replace(one, id=AFTERLIFE + one.id)
            self._store.enroll(one)
            known.update({worker.id: worker for worker in self._store.alive()})
        worker = known.get(one.id)
        return None if worker is None else self._store.replace_recorder(Fence(one.id, worker.generation))

    # -- the end --------------------------------------------------------------

    def _end(self, orphan: Orphan) -> None:
        """Everything it had to say is on record: now it is over, as it was."""
        if not orphan.one.id or self._windows:
            return
        if orphan.ended is not None:
            self._store.say_goodbye(orphan.fence, reason=orphan.ended)
            return
        processes = self._store.running_processes(orphan.fence.incarnation)
        if self._host.is_gone(_as_worker(orphan.one)) and not self._host.stop_left_overs(
            _as_worker(orphan.one), processes
        ):
            return  # something of it still runs: the lease decides
        evidence = {"how": "process gone, its journal was replayed", "pid": orphan.one.pid}
        self._store.declare_own_loss(orphan.fence, evidence={**evidence, "pid_start": orphan.one.pid_start})


def _incarnation(life: Life) -> Incarnation:
    """Fields that this version does not know are left out: another wrote them."""
    known = {field.name for field in dataclasses.fields(Incarnation)}
    return Incarnation(**{name: value for name, value in life.incarnation.items() if name in known})


def _as_worker(one: Incarnation) -> Worker:
    """What a host must know of an incarnation in order to look for its process."""
    return Worker(
        one.id, one.hostname, one.scope, one.host, one.boot_id, one.pid_namespace, one.pid, one.pid_start,
        0, 0, one.lease_ms, one.heartbeat_ms, WorkerState.ALIVE, 0, 0, 0, 0, None, False, {}, {}, {},
    )  # fmt: skip
