"""The book of incidents: one row of `crisper_registry`, written by compare-and-set on all of it.

It is small (what is on, and what was seen lately), so a table of its own would only need migrating.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from crisper.engine.alerts.incident import Book, Incident
from crisper.store.database import Conflict
from crisper.store.sql import SqlStore

_READ = "SELECT r.value FROM crisper_registry r WHERE r.key = 'alerts'"
_MAKE = "INSERT INTO crisper_registry VALUES ('alerts', ?) ON CONFLICT DO NOTHING"
_KEEP = (
    "UPDATE crisper_registry SET value = ? WHERE crisper_registry.key = 'alerts'"
    " AND crisper_registry.value = ?"
)


def change(store: SqlStore, how: Callable[[Book | None], Book]) -> Book | None:
    """Read the book, change it, and write it if it is still as it was read; None if somebody was faster.

    Raises `RegistryUnreachable`; whether it was written is then unknown.
    """
    try:
        with store.db.write():
            rows = store.db.rows(_READ)
            was = str(rows[0][0]) if rows else None
            book = how(_book(was) if was is not None else None)
            text = json.dumps(dataclasses.asdict(book), separators=(",", ":"))
            if text == was:
                return book
            won = store.db.run(_MAKE, text) if was is None else store.db.run(_KEEP, text, was)
    except Conflict:
        return None
    return book if won else None


def _book(text: str) -> Book:
    told = json.loads(text)
    return Book(
        incidents=tuple(_incident(one) for one in told["incidents"]),
        seen={kind: tuple(ids) for kind, ids in told["seen"].items()},
        last=dict(told["last"]),
    )


def _incident(told: dict[str, Any]) -> Incident:
    known = {field.name for field in dataclasses.fields(Incident)}  # a newer Crisper may have written more
    plain = {name: value for name, value in told.items() if name in known}
    return Incident(**{**plain, "left": tuple(told["left"]), "told": tuple(told["told"])})
