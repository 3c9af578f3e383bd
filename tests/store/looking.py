"""All that is on record in a store, as values that can be compared; and a clock that the test moves."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from crisper.store import at_once, rows
from crisper.store.memory import Event, MemoryStore
from crisper.store.postgres import PostgresDatabase
from crisper.store.schema import metadata
from crisper.store.sql import SqlStore
from tests.store.acting import EVENTS, MemoryRegistry, SqlRegistry

Records = dict[str, list[Any]]

_STOP = "incarnation, task_id, number, ordered_by, reason, done_at IS NOT NULL"
_CHECKPOINTS = "SELECT task_id, number, saved_at, data, preview FROM crisper_checkpoint"
_PUBLISH = (
    "message_id, task_id, scope, name, queue, retries, loss_budget, missing, vanished, published_at,"
    " due_at, args_preview, kwargs_preview, message_size, why_not_kept, envelope, body"
)


def in_memory(registry: MemoryRegistry) -> Records:
    store: MemoryStore = registry.store
    attempts = [a for each in store._attempts.values() for a in each]
    kept = {place: (m.envelope, m.body) for place, m in store._messages.items()}
    published = [
        (
            *(p.message_id, p.task_id, p.scope, p.name, p.queue, p.retries, p.loss_budget, p.missing),
            *(p.vanished, p.age_ms, due, p.args_preview, p.kwargs_preview),
            *(p.message.size, p.message.why_not, p.message.envelope, p.message.body),
        )
        for p, due in store._published.values()
    ]
    return {
        "workers": _sorted(store._workers.values()),
        "attempts": _sorted((a, *kept.get((a.task_id, a.number), (None, None))) for a in attempts),
        "recoveries": _sorted(store._recoveries.values()),
        "orders": _sorted((o.incarnation, *at, o.by, o.reason, o.done) for at, o in store._orders.items()),
        "published": _sorted(published),
        "terms": _sorted((name, *term) for name, term in store._terms.items()),
        "running": _sorted(store._running.items()),
        "checkpoints": _sorted((task, *kept) for task, kept in store._checkpoints.items()),
        "events": _sorted(store.events()),
    }


def in_sql(registry: SqlRegistry) -> Records:
    db = registry.store.db
    with db.write():
        attempts = db.rows(f"SELECT {rows.ATTEMPT}, envelope, body FROM crisper_attempt")
        orders = db.rows(f"SELECT {_STOP} FROM crisper_order")
        terms = db.rows("SELECT name, holder, counter FROM crisper_leader WHERE name <> 'clock'")
        return {
            "workers": _sorted(
                map(rows.as_worker, db.rows(f"SELECT {rows.WORKER} FROM crisper_incarnation"))
            ),
            "attempts": _sorted((rows.as_attempt(row), row[-2], _bytes(row[-1])) for row in attempts),
            "recoveries": _sorted(
                map(rows.as_recovery, db.rows(f"SELECT {rows.RECOVERY} FROM crisper_recovery"))
            ),
            "orders": _sorted((*row[:-1], bool(row[-1])) for row in orders),
            "published": _sorted(
                (*row[:-1], _bytes(row[-1])) for row in db.rows(f"SELECT {_PUBLISH} FROM crisper_publish")
            ),
            "terms": _sorted(map(tuple, terms)),
            "checkpoints": _sorted(map(tuple, db.rows(_CHECKPOINTS))),
            "running": _sorted(
                (id, json.loads(told))
                for id, told in db.rows("SELECT incarnation, told FROM crisper_running")
            ),
            "events": _sorted(Event(*row[:-1], json.loads(row[-1])) for row in db.rows(EVENTS)),
        }


def _sorted(values: Iterable[Any]) -> list[Any]:
    return sorted(values, key=repr)


def _bytes(body: Any) -> bytes | None:
    return None if body is None else bytes(body)


def differences(one: Records, two: Records) -> str:
    """What either has that the other has not."""
    told = []
    for table, values in one.items():
        told += [f"{table}: only the first has {v}" for v in values if v not in two[table]]
        told += [f"{table}: only the second has {v}" for v in two[table] if v not in values]
    return "\n".join(told)


def empty(store: SqlStore) -> None:
    """Rows are deleted one by one: for the few that a test leaves behind, the cheapest way."""
    with store.db.write():
        for name in metadata.tables:
            if name != "crisper_registry":
                store.db.run(f"DELETE FROM {name}")


def set_clock(store: SqlStore, now: int) -> None:
    """From now on the registry's clock stands there."""
    db = store.db
    db.now = lambda: str(now)  # type: ignore[method-assign]
    if isinstance(db, PostgresDatabase):
        db._at_once = at_once.STATEMENT.format(now=now, share=db.share)


def hasten(store: SqlStore, url: str) -> None:
    """What is committed need not be on the disk before the test goes on."""
    how = {"sqlite": "PRAGMA synchronous = OFF", "postgresql": "SET synchronous_commit = off"}
    statement = how.get(url.partition(":")[0].partition("+")[0])
    if statement and "sqlite" in url:
        store.db._connect().execute(statement)  # type: ignore[attr-defined]
    elif statement:
        with store.db.write():
            store.db.run(statement)
