"""The sweeper: finds the attempts that nobody runs any more (design, section 4).

A sweep observes every live lease, declares what it can prove on its own host,
and, if elected, what has been silent for a full lease; then, each in
transactions of their own, it closes the attempts of whoever was declared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from crisper.core.lease import Brake, Observer, Seen
from crisper.core.model import Lease, Worker
from crisper.store.base import Store, Term

#: How long a dead worker's own recorder is left to witness the death, which it
#: can do with better evidence, before a neighbour declares it. Seconds.
WITNESS_SECONDS = 1.0

#: Attempts closed by one sweep at most, so that observing is never starved:
#: 10,000 take 0.3 s on SQLite and 0.9 s on PostgreSQL (bench/stale_attempts.py).
CLOSE_AT_MOST = 20_000
BATCH = 500


class Host(Protocol):
    """What the sweeper can prove about processes on its own host."""

    def is_gone(self, worker: Worker | Lease) -> bool | None:
        """Whether the worker's parent process is gone; None if that cannot be seen from here."""

    def has_recorder(self, worker: Worker | Lease) -> bool: ...

    def stop_left_overs(self, worker: Worker | Lease, processes: list[tuple[int, int]]) -> bool:
        """Kill what still runs of `(pid, start)`; True once all of it is gone."""


class Judged(NamedTuple):
    worker: str
    how: str  # "process gone" or "silence"


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep did."""

    alive: int
    silent: int
    leads: bool
    braked: bool
    declared: tuple[Judged, ...]
    closed: int
    more: bool

    @property
    def did_anything(self) -> bool:
        return bool(self.declared or self.closed or self.braked)


class Election:
    """Leadership by the same protocol as a lease: renew it, or watch it stand still."""

    NAME = "sweeper"

    def __init__(self, store: Store, me: str, lease: float, name: str = NAME) -> None:
        self._store, self._me, self._lease, self._name = store, me, lease, name
        self._observer = Observer()
        self._term: Term | None = None

    def leads(self, now: float) -> bool:
        seen = self._store.term(self._name)
        if seen is None or seen.holder == self._me:
            self._term = self._store.campaign(self._name, self._me, seen)
            return self._term is not None
        self._observer.observe(now, [Seen(seen.holder, seen.counter, self._lease)])
        if self._observer.silent():
            return self._store.campaign(self._name, self._me, seen) is not None
        return False


class Sweeper:
    """One pass is `tick`. Times are seconds of the caller's own monotonic clock."""

    def __init__(
        self,
        store: Store,
        me: str,
        *,
        lease: float,
        host: Host | None = None,
        election: bool = True,
        warn: Callable[[str], None] = lambda sentence: None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """`clock`: the caller's, read again after a look at the registry, which may take long."""
        self._store, self._me, self._host, self._warn = store, me, host, warn
        self._clock = clock
        self._observer, self._brake = Observer(), Brake()
        self._election = Election(store, me, lease) if election else None
        self._gone_since: dict[str, float] = {}

    def tick(self, now: float) -> Swept:
        """Raises `RegistryUnreachable`, which breaks the chain of observations by itself."""
        workers = {w.id: w for w in self._store.leases()}
        leases = [Seen(w.id, w.counter, w.lease_ms / 1000) for w in workers.values()]
        self._observer.observe(now, leases, until=self._clock() if self._clock else now)
        declared = self._declare_proven(now, workers)
        leads = self._election is None or self._election.leads(now)
        silent = self._observer.silent()
        braked = False
        if leads and silent:
            passes = self._brake.passes(silent, len(workers))
            braked = not passes
            declared += (
                self._declare_silent(workers, silent) if passes else self._hold(silent, len(workers), now)
            )
        closed, more = self._close()
        return Swept(len(workers), len(silent), leads, braked, tuple(declared), closed, more)

    def renewing(self, now: float) -> frozenset[str]:
        """Incarnations whose leases were seen to move lately."""
        return self._observer.renewing(now)

    def silent_for(self, id: str) -> float:
        return self._observer.silent_for(id)

    # -- by proof -------------------------------------------------------------

    def _declare_proven(self, now: float, workers: dict[str, Lease]) -> list[Judged]:
        if self._host is None:
            return []
        gone = [w for w in workers.values() if w.id != self._me and self._host.is_gone(w)]
        self._gone_since = {w.id: self._gone_since.get(w.id, now) for w in gone}
        return [Judged(w.id, "process gone") for w in gone if self._prove(now, w, self._host)]

    def _prove(self, now: float, worker: Lease, host: Host) -> bool:
        if host.has_recorder(worker) and now - self._gone_since[worker.id] < WITNESS_SECONDS:
            return False
        if not host.stop_left_overs(worker, self._store.running_processes(worker.id)):
            return False
        evidence = {"how": "process gone", "pid": worker.pid, "pid_start": worker.pid_start}
        return self._store.declare_lost(worker.id, worker.counter, by=self._me, evidence=evidence)

    # -- by silence -----------------------------------------------------------

    def _declare_silent(self, workers: dict[str, Lease], silent: dict[str, int]) -> list[Judged]:
        judged = []
        for id, counter in silent.items():
            worker = workers.get(id)
            if worker is None:
                continue
            evidence = {
                "how": "silence",
                "counter": counter,
                "silent_for": round(self._observer.silent_for(id), 3),
                "lease": worker.lease_ms / 1000,
            }
            if self._store.declare_lost(id, counter, by=self._me, evidence=evidence):
                judged.append(Judged(id, "silence"))
        return judged

    def _hold(self, silent: dict[str, int], alive: int, now: float) -> list[Judged]:
        self._warn(
            f"brake: {len(silent)} workers fell silent at once; observing a second full lease"
            " before any of them is declared lost"
        )
        self._observer.restart(silent, now)
        self._store.note("brake", None, None, self._me, {"silent": len(silent), "alive": alive})
        return []

    # -- the second phase -----------------------------------------------------

    def _close(self) -> tuple[int, bool]:
        closed = 0
        for worker in self._store.uncleared():
            more = True
            while more and closed < CLOSE_AT_MOST:
                batch = self._store.close_lost(worker.id, by=self._me, limit=BATCH)
                closed += len(batch.task_ids)
                more = batch.more and bool(batch.task_ids)
            if closed >= CLOSE_AT_MOST:
                return closed, True
        return closed, False
