"""Text from outside, in a form that every registry can store.

Task ids, names and tags are whatever a publisher wrote. PostgreSQL stores no
NUL and no lone surrogate, and indexes no key of some 2,700 bytes or more;
MariaDB none of more than 767 characters, and no row larger than one packet. One
such value would fail the whole batch that it is part of.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from crisper.core.model import Checkpoint, ChildLost, Claim, Entry, Finish, Message, Note, Record, Start

#: A longer id is cut, and told apart by its digest.
KEY_BYTES = 760
_CUT = 200
_INT32 = 2**31 - 1


def storable(text: str) -> str:
    """The text with NULs and lone surrogates escaped, as JSON escapes them; most texts as they are."""
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode()
    return text.replace("\0", "\\u0000")


def key(text: str) -> str:
    """An id as the registry keys it: as it is, or, where it cannot be stored so, told apart by its digest."""
    stored = storable(text)
    if stored == text and len(text) <= KEY_BYTES and len(text.encode()) <= KEY_BYTES:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{stored[:_CUT]}~{digest[:32]}"


def as_json(data: dict[str, Any]) -> str:
    """Facts that people read, in plain ASCII: what JSON cannot say is told by its `repr`, never refused."""
    return json.dumps(data, default=repr)


def fitting(message: Message, largest: int | None) -> Message:
    """The message, or, where a registry keeps no row that large, the reason why it is not kept."""
    if largest is None or message.body is None or len(message.body) + len(message.envelope) <= largest:
        return message
    limit = f"{len(message.body) / 2**20:.1f} MiB > {largest / 2**20:.1f} MiB, the registry server's packet"
    return Message(None, "{}", message.size, limit)


def storable_entry(entry: Entry) -> Entry:
    """The entry as what is on record of its delivery names it."""
    return Entry(key(entry.task_id), key(entry.message_id), storable(entry.tag))


def storable_record(record: Record, largest: int | None = None) -> Record:
    """The record with every text, number and size such that its registry does not refuse it."""
    match record:
        case Claim():
            return record._replace(
                task_id=key(record.task_id),
                message_id=key(record.message_id),
                name=storable(record.name),
                queue=storable(record.queue),
                tag=storable(record.tag),
                retries=min(record.retries, _INT32),
                loss_budget=min(record.loss_budget, _INT32),
                message=fitting(_message(record.message), largest),
                args_preview=storable(record.args_preview),
                kwargs_preview=storable(record.kwargs_preview),
            )
        case Start() | ChildLost() | Checkpoint():  # whose texts are JSON in plain ASCII
            return record._replace(task_id=key(record.task_id))
        case Finish():
            return record._replace(task_id=key(record.task_id), reason=_or_none(record.reason))
        case Note():
            task_id = None if record.task_id is None else key(record.task_id)
            return record._replace(kind=storable(record.kind), task_id=task_id)


def _message(message: Message) -> Message:
    """An envelope is JSON, and in JSON the escapes mean what they stand for."""
    return message._replace(envelope=storable(message.envelope), why_not=_or_none(message.why_not))


def _or_none(text: str | None) -> str | None:
    return None if text is None else storable(text)
