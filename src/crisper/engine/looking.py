"""How far one question looks back where no index answers it."""

from __future__ import annotations

from sqlalchemy import Connection, select

from crisper.engine.filters import Filters, Place
from crisper.store.schema import attempt

#: Attempts that one page of such a question looks at, however many there are.
MOST = 30_000


def floor_of(connection: Connection, filters: Filters, now: int, after: Place | None) -> int | None:
    """When the oldest was received of the newest `MOST` attempts `after` a page, before the times asked for;
    None if there are not so many, or not within those times."""
    received = attempt.c.received_at
    behind = [received <= after.received_at] if after is not None else []
    if filters.until is not None:
        behind.append(received < filters.until.at(now))
    if filters.older_than_ms is not None:
        behind.append(received < now - filters.older_than_ms)
    newest = select(received).where(*behind).order_by(received.desc()).offset(MOST).limit(1)
    floor = connection.execute(newest).scalar()
    if floor is None or (filters.since is not None and floor < filters.since.at(now)):
        return None
    return int(floor)
