"""What happened, counted for good: events by their kind, and verdicts, whatever is pruned later.

One row of `crisper_registry` holds the counts and the last event that they include. Whoever follows takes
that row first, so any number may.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import NamedTuple

from crisper.store.database import Conflict, Row
from crisper.store.sql import SqlStore

#: Ids are given before their transactions commit, so a younger event may be seen before an older one. No
#: transaction lasts that long (`crisper.engine.deadline`).
LAG_MS = 60_000

KEY = "totals"
_TAKE = "SELECT r.value FROM crisper_registry r WHERE r.key = 'totals'"
_MAKE = "INSERT INTO crisper_registry VALUES ('totals', ?) ON CONFLICT DO NOTHING"
_KEEP = "UPDATE crisper_registry SET value = ? WHERE crisper_registry.key = 'totals'"
_NEXT = (
    "SELECT id, at, kind, CASE WHEN kind = 'verdict' THEN data END FROM crisper_event"
    " WHERE id > ? ORDER BY id LIMIT ?"
)


class Totals(NamedTuple):
    """Since the registry was made, or as far back as its events went when counting began."""

    after: int  # the last event counted
    events: dict[str, int]
    verdicts: dict[str, int]


def read(store: SqlStore) -> Totals:
    with store.db.write():
        return _read(store.db.rows(_TAKE))


def of(kept: str | None) -> Totals:
    """What a registry keeps; None if nobody has counted yet."""
    return Totals(0, {}, {}) if kept is None else Totals(*json.loads(kept))


def follow(store: SqlStore, *, limit: int = 5000, lag_ms: int = LAG_MS) -> int:
    """Count what has happened since, so many events at most; how many were counted."""
    try:
        with store.db.write():
            store.db.run(_MAKE, json.dumps(Totals(0, {}, {})))
            was = _read(store.db.rows(f"{_TAKE}{store.db.lock}"))
            settled = store.now() - lag_ms
            rows = _until(settled, store.db.rows(_NEXT, was.after, limit))
            if rows:
                store.db.run(_KEEP, json.dumps(_with(was, rows)))
            return len(rows)
    except Conflict:  # the next pass counts them
        return 0


def _read(rows: list[Row]) -> Totals:
    return of(rows[0][0] if rows else None)


def _until(settled: int, rows: list[Row]) -> list[Row]:
    young = next((n for n, row in enumerate(rows) if row[1] > settled), len(rows))
    return rows[:young]


def _with(was: Totals, rows: list[Row]) -> Totals:
    events = Counter(was.events) + Counter(str(kind) for _, _, kind, _ in rows)
    verdicts = Counter(was.verdicts) + Counter(_verdict(data) for *_, data in rows if data is not None)
    return Totals(int(rows[-1][0]), dict(events), dict(verdicts))


def _verdict(data: str) -> str:
    told = json.loads(data)
    return str(told.get("verdict")) if isinstance(told, dict) else "unknown"
