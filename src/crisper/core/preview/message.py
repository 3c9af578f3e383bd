"""A message's body: decoded where that is safe and cheap, described where it is not."""

from __future__ import annotations

import json
from base64 import b64decode
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from crisper.core.preview.redaction import DEFAULT_REDACT
from crisper.core.preview.value import preview

if TYPE_CHECKING:
    from collections.abc import Callable

DECODE_LIMIT: Final = 1 << 20
"""Bytes. A larger message body is described, not decoded; at most so much of a described body is hashed."""


def preview_message(
    body: bytes | str,
    content_type: str | None,
    content_encoding: str | None,
    *,
    limit_bytes: int = 4096,
    redact: tuple[str, ...] = DEFAULT_REDACT,
) -> tuple[str, str]:
    """Previews of the positional and of the keyword arguments of a Celery message.

    Each is at most `limit_bytes` long. `body` is as the broker gave it, any base64 already undone. JSON of up
    to `DECODE_LIMIT` bytes is decoded, in protocol 1 or 2; any other body is described, in both previews.
    """
    try:
        args, kwargs = _arguments(_decoded(body, content_type, content_encoding))
    except _Undecoded as refusal:
        described = preview(_described(body, content_type, str(refusal)), limit_bytes=limit_bytes, redact=())
        return described, described
    args_preview = preview(args, limit_bytes=limit_bytes, redact=redact)
    return args_preview, preview(kwargs, limit_bytes=limit_bytes, redact=redact)


_JSON: Final = "application/json"
_PICKLES = ("application/x-python-serialize", "application/x-python-pickle")
_UTF_8_NAMES = frozenset(
    ("", "binary", "utf-8", "utf8", "us-ascii", "ascii")
)  # kombu says binary of base64 undone


class _Undecoded(Exception):
    """Why a body is described and not decoded."""


def _decoded(body: bytes | str, content_type: str | None, content_encoding: str | None) -> Any:
    if content_type != _JSON:
        raise _Undecoded(
            "Crisper never unpickles" if content_type in _PICKLES else f"only {_JSON} is decoded"
        )
    if len(body) > DECODE_LIMIT:
        raise _Undecoded(f"larger than the decode limit of {DECODE_LIMIT} bytes")
    if (content_encoding or "").lower() not in _UTF_8_NAMES:
        raise _Undecoded("its content encoding is not UTF-8")
    try:
        text = body if isinstance(body, str) else body.decode()
        return json.loads(text, object_hook=_revived) if '"__type__"' in text else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _Undecoded(f"broken JSON: {type(error).__name__}: {str(error)[:80]}") from None


def _arguments(message: Any) -> tuple[object, object]:
    """Protocol 2 is `[args, kwargs, embed]`; protocol 1 a dict that may leave out either."""
    args = kwargs = None
    if type(message) is list and len(message) == 3:
        args, kwargs = message[0], message[1]
    elif type(message) is dict and not message.keys().isdisjoint(("args", "kwargs")):
        args, kwargs = message.get("args") or [], message.get("kwargs") or {}
    if type(args) is list and type(kwargs) is dict:
        return args, kwargs
    raise _Undecoded("not the shape of a Celery message")


def _revived(found: dict[str, Any]) -> object:
    """What kombu's JSON wraps as `{"__type__": ..., "__value__": ...}`, without the wrapping."""
    if found.keys() != {"__type__", "__value__"}:
        return found
    kind, value = found["__type__"], found["__value__"]
    try:
        return _WRAPPED[kind](value) if kind in _WRAPPED else found
    except (TypeError, ValueError, KeyError):  # not kombu's own, so shown as it stands
        return found


_WRAPPED: dict[str, Callable[[Any], object]] = {
    **dict.fromkeys(("datetime", "date", "time", "decimal"), lambda value: value),
    "uuid": lambda value: str(UUID(hex=value["hex"])),
    "bytes": lambda value: value.encode(),
    "base64": lambda value: b64decode(value),
}


def _described(body: bytes | str, content_type: str | None, why: str) -> dict[str, object]:
    start = body[:DECODE_LIMIT]
    hashed = (start.encode(errors="replace") if isinstance(start, str) else start)[:DECODE_LIMIT]
    kind = content_type[:80] if content_type else "unknown"
    digest = sha256(hashed).hexdigest()[:16]
    return {
        "__undecoded__": kind,
        "size": _body_size(body),
        "sha256": digest,
        "hashed": len(hashed),
        "why": why,
    }


def _body_size(body: bytes | str) -> int | None:
    """Bytes, or None where telling them would take encoding a large text."""
    if isinstance(body, bytes) or body.isascii():
        return len(body)
    return len(body.encode(errors="replace")) if len(body) <= DECODE_LIMIT else None
