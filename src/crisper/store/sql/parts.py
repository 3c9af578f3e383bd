"""The parts that every verb in SQL is made of."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from crisper.core.model import Fence, Recovery, Worker
from crisper.core.text import as_json, storable
from crisper.errors import RegistryUnreachable
from crisper.store.database import Conflict, Database
from crisper.store.rows import EVENT, RECOVERY, WORKER, as_recovery, as_worker

#: How often a transaction is tried that the database refuses as a deadlock's victim.
TRIES = 5

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound="Parts")


def verb(transaction: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """One transaction, run again if the database chose it as a deadlock's victim."""

    @functools.wraps(transaction)
    def again(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        for _ in range(TRIES - 1):
            try:
                return transaction(self, *args, **kwargs)
            except Conflict:
                continue
        try:
            return transaction(self, *args, **kwargs)
        except Conflict as exc:
            raise RegistryUnreachable(f"the registry kept refusing a transaction: {exc}") from exc

    return again


class Parts:
    """One database, its clock, and what is written and read everywhere."""

    def __init__(self, database: Database) -> None:
        self.db = database

    def close(self) -> None:
        self.db.close()

    def abort(self) -> None:
        self.db.abort()

    def look_around(self) -> None:
        self.db.look_around()

    def now(self) -> int:
        return int(self.db.rows(f"SELECT {self.db.now()}")[0][0])

    def _workers(self, where: str, *params: Any) -> list[Worker]:
        sql = f"SELECT {WORKER} FROM crisper_incarnation WHERE {where} ORDER BY started_at, id"
        return [as_worker(row) for row in self.db.rows(sql, *params)]

    def _hold(self, fence: Fence) -> int | None:
        """Keep the incarnation as it is until commit; the registry's time, or None if fenced."""
        rows = self.db.rows(
            f"SELECT {self.db.now()} FROM crisper_incarnation"
            f" WHERE id = ? AND generation = ? AND state = 'alive'{self.db.share}",
            *fence,
        )
        return int(rows[0][0]) if rows else None

    def _event(
        self,
        at: int,
        kind: str,
        *,
        actor: str,
        task_id: str | None = None,
        number: int | None = None,
        incarnation: str | None = None,
        seq: int | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        self.db.run(
            EVENT, *(at, kind, task_id, number, incarnation, seq, storable(actor), as_json(data or {}))
        )

    def _recovery_of(self, task_id: str, number: int) -> Recovery:
        rows = self.db.rows(
            f"SELECT {RECOVERY} FROM crisper_recovery WHERE task_id = ? AND number = ?",
            *(task_id, number),
        )
        return as_recovery(rows[0])
