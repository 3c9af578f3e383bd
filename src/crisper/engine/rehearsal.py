"""A sweep that only says what it would do: the same sweeper, on a store and a host that change nothing."""

from __future__ import annotations

from typing import Any

from crisper.core.model import Lease, Worker
from crisper.engine.sweeper import Host
from crisper.store.base import Closed, Store


class DryStore:
    """Answers the sweeper's questions from the registry, and agrees to its writes without making them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._declared: set[str] = set()

    def alive(self) -> list[Worker]:
        return [worker for worker in self._store.alive() if worker.id not in self._declared]

    def leases(self) -> list[Lease]:
        return [lease for lease in self._store.leases() if lease.id not in self._declared]

    def uncleared(self) -> list[Worker]:
        return []

    def running_processes(self, id: str) -> list[tuple[int, int]]:
        return []

    def declare_lost(self, id: str, counter: int, *, by: str, evidence: dict[str, Any]) -> bool:
        self._declared.add(id)
        return True

    def close_lost(self, id: str, *, by: str, limit: int = 500) -> Closed:
        return Closed((), False)


class DryHost:
    """Looks at processes and stops none."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def is_gone(self, worker: Worker | Lease) -> bool | None:
        return self._host.is_gone(worker)

    def has_recorder(self, worker: Worker | Lease) -> bool:
        return self._host.has_recorder(worker)

    def stop_left_overs(self, worker: Worker | Lease, processes: list[tuple[int, int]]) -> bool:
        return True
