"""What the messages of open attempts tell: ETAs and chords. Nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, select

from crisper.core.message import Kept, unpack
from crisper.core.model import Message
from crisper.core.states import OPEN
from crisper.errors import MessageDamaged
from crisper.store.schema import attempt

#: So many are looked into, and how large one may be, in bytes.
LOOKED_INTO, LOOKED_INTO_BYTES = 200, 65_536


def kept(connection: Connection) -> Iterator[tuple[str, Kept, int]]:
    """Task name, message and time of receipt."""
    question = (
        select(
            *(attempt.c.name, attempt.c.body, attempt.c.envelope, attempt.c.message_size),
            *(attempt.c.why_not_kept, attempt.c.received_at),
        )
        .where(
            attempt.c.state.in_(sorted(OPEN)),
            attempt.c.incarnation != "",
            attempt.c.body.is_not(None),
            attempt.c.message_size <= LOOKED_INTO_BYTES,
        )
        .limit(LOOKED_INTO)
    )
    for row in connection.execute(question):
        try:
            message = Message(bytes(row.body), row.envelope or "{}", row.message_size, row.why_not_kept)
            yield row.name, unpack(message), row.received_at
        except MessageDamaged:
            continue


def countdowns(kept: Iterable[tuple[str, Kept, int]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, message, received_at in kept:
        ahead = _ahead(message.headers.get("eta"), received_at / 1000)
        if ahead > 0:
            found[name] = max(found.get(name, 0.0), ahead)
    return found


def _ahead(eta: Any, received_at: float) -> float:
    try:
        at = datetime.fromisoformat(str(eta)) if eta else None
    except ValueError:
        return 0.0
    if at is None:
        return 0.0
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - received_at


def in_chord(message: Kept) -> bool:
    """By Celery's own body, if it is JSON: nothing is ever unpickled here."""
    if message.content_type != "application/json":
        return False
    try:
        *_, embedded = json.loads(message.body)
        return bool(embedded.get("chord"))
    except (ValueError, TypeError, AttributeError):
        return False
