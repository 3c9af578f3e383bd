"""The journal's lines: what they say, and how that is written as bytes.

A line is JSON, so that another version of Python or of Crisper, and a person,
can read what a dead worker left; a message's body follows it as it is.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from crisper.core.model import Checkpoint, ChildLost, Claim, Finish, Message, Note, Published, Record, Start
from crisper.core.states import OnLost, State

#: Between the JSON, which has no such byte, and the body.
_END = b"\0"
_KINDS: dict[str, Any] = {
    "claim": Claim,
    "start": Start,
    "checkpoint": Checkpoint,
    "finish": Finish,
    "child_lost": ChildLost,
    "note": Note,
    "published": Published,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_READ: dict[type, dict[str, Any]] = {Claim: {"on_lost": OnLost}, Finish: {"state": State}}


class Life(NamedTuple):
    """An incarnation begins to write: what follows is its own."""

    incarnation: dict[str, Any]  # the fields of `core.model.Incarnation`
    registry: str  # digest of the registry's URL: whose records these are
    grace_ms: int  # until a published message is looked for


class Told(NamedTuple):
    """A record, and when it happened."""

    at: int  # milliseconds of the host's monotonic clock, which only its boot can compare
    wall: int  # milliseconds since the epoch by the host's own clock
    record: Record | Published


class Ended(NamedTuple):
    """The life ended in order, for this reason; without it the worker just died."""

    reason: str


Line = Life | Told | Ended


def to_bytes(line: Line) -> bytes:
    """One line. What JSON does not know is written as its `repr`."""
    body = b""
    if isinstance(line, Told):
        fields = line.record._asdict()
        message = fields.get("message")
        if isinstance(message, Message):
            body = message.body or b""
            fields["message"] = [message.body is not None, *message[1:]]
        plain: Any = [_NAMES[type(line.record)], line.at, line.wall, fields]
    else:
        plain = [type(line).__name__, *line]
    return json.dumps(plain, separators=(",", ":"), default=repr).encode() + _END + body


def from_bytes(data: bytes) -> Line:
    """Raises `ValueError` for what no Crisper wrote."""
    text, _, body = data.partition(_END)
    try:
        kind, *rest = json.loads(text)
        if kind == "Life":
            return Life(*rest)
        if kind == "Ended":
            return Ended(*rest)
        at, wall, fields = rest
        return Told(at, wall, _record(_KINDS[kind], fields, body))
    except (KeyError, TypeError, IndexError) as exc:
        raise ValueError(f"no line of a journal: {exc!r}") from exc


def starts_with(data: bytes, kind: str) -> bool:
    """Whether a line is of this kind, without reading it."""
    return data.startswith(b'["%s",' % kind.encode())


def is_outcome(data: bytes) -> bool:
    return starts_with(data, "finish") or starts_with(data, "child_lost")


def gives_back(data: bytes) -> bool:
    """Whether a line may say that a delivery was given back, without reading it."""
    return starts_with(data, "finish") and b'"released"' in data


def _record(kind: Any, fields: dict[str, Any], body: bytes) -> Record | Published:
    """Fields that this version does not know are left out: another wrote them."""
    known = {name: value for name, value in fields.items() if name in kind._fields}
    if "message" in known:
        kept, *rest = known["message"]
        known["message"] = Message(body if kept else None, *rest)
    for name, read in _READ.get(kind, {}).items():
        known[name] = read(known[name])
    record: Record | Published = kind(**known)
    return record
