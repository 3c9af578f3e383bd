"""The exact message, packed for the registry and read back as it was.

Bodies are kept as bytes and never decoded here; pickled ones are as safe as
any. Everything but the body goes into the envelope, which is JSON.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from crisper.core.model import Message
from crisper.errors import MessageDamaged

#: Smaller bodies are not worth compressing (zlib's own header is 11 bytes, and
#: level 1 on 300 bytes of JSON saves less than a third).
COMPRESS_FROM = 512

#: Set by the broker or the transport on every delivery; they would lie in a re-send.
#: `compression`: kombu has undone it when the worker sees the body.
DELIVERY_COUNT_HEADER = "x-delivery-count"
NOT_RESENT_HEADERS = ("compression", "redelivered", DELIVERY_COUNT_HEADER)
NOT_RESENT_PROPERTIES = ("delivery_info", "delivery_tag", "body_encoding", "application_headers")


class Kept(NamedTuple):
    """A message as it is published again."""

    body: bytes | str
    content_type: str | None
    content_encoding: str | None
    headers: dict[str, Any]
    properties: dict[str, Any]
    exchange: str
    routing_key: str


def pack(message: Kept, *, limit: int) -> Message:
    """The message as the registry keeps it; over `limit` bytes only its size is."""
    raw = message.body.encode("utf-8", "surrogatepass") if isinstance(message.body, str) else message.body
    count = message.headers.get(DELIVERY_COUNT_HEADER)
    counted = {"delivery_count": count} if isinstance(count, int) else {}
    if len(raw) > limit:
        return Message(None, json.dumps(counted), len(raw), f"{_size(len(raw))} > {_size(limit)}")
    compressed = zlib.compress(raw, 1) if len(raw) >= COMPRESS_FROM else raw
    packed = compressed if len(compressed) < len(raw) else raw
    envelope = {
        "text": isinstance(message.body, str),
        "zlib": packed is not raw,
        "crc": zlib.crc32(raw),
        "content_type": message.content_type,
        "content_encoding": message.content_encoding,
        "headers": _without(message.headers, NOT_RESENT_HEADERS),
        "properties": _without(message.properties, NOT_RESENT_PROPERTIES),
        "exchange": message.exchange,
        "routing_key": message.routing_key,
        **counted,
    }
    try:
        return Message(packed, _encode(envelope), len(raw))
    except (TypeError, ValueError) as exc:
        return Message(None, json.dumps(counted), len(raw), f"its headers cannot be kept: {exc}")


def unpack(message: Message) -> Kept:
    """The message as it was published; raises `MessageDamaged` unless it is exactly that."""
    if message.body is None:
        raise MessageDamaged(f"the message is not kept: {message.why_not or 'deleted'}")
    try:
        envelope = json.loads(message.envelope, object_hook=_untag)
        raw = zlib.decompress(message.body) if envelope["zlib"] else message.body
        intact = len(raw) == message.size and zlib.crc32(raw) == envelope["crc"]
        if intact:
            return Kept(
                raw.decode("utf-8", "surrogatepass") if envelope["text"] else raw,
                envelope["content_type"],
                envelope["content_encoding"],
                {**envelope["headers"]},
                {**envelope["properties"]},
                envelope["exchange"],
                envelope["routing_key"],
            )
    except (ValueError, KeyError, TypeError, zlib.error) as exc:
        raise MessageDamaged(f"the kept message cannot be read: {exc}") from exc
    raise MessageDamaged(
        f"the kept message is damaged: {len(raw)} bytes, {message.size} were kept, or the checksum differs"
    )


def delivery_count(message: Message) -> int | None:
    """How often its quorum queue had had it given back before this delivery; None if never, or not known."""
    try:
        count = json.loads(message.envelope or "{}").get("delivery_count")
    except (ValueError, AttributeError):
        return None
    return count if isinstance(count, int) else None


def _without(values: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {
        key: value
        for key, value in values.items()
        if key not in names and not key.startswith(("x-death", "x-first-death"))
    }


def _tag(value: Any) -> Any:
    """What AMQP tables may hold and JSON does not."""
    if isinstance(value, (bytes, bytearray)):
        return {"__bytes__": base64.b64encode(value).decode()}
    if isinstance(value, datetime):
        return {"__datetime__": value.isoformat()}
    if isinstance(value, Decimal):
        return {"__decimal__": str(value)}
    raise TypeError(f"a {type(value).__name__}")


_encode = json.JSONEncoder(default=_tag).encode


def _untag(value: dict[str, Any]) -> Any:
    if len(value) == 1:
        if "__bytes__" in value:
            return base64.b64decode(value["__bytes__"])
        if "__datetime__" in value:
            return datetime.fromisoformat(value["__datetime__"])
        if "__decimal__" in value:
            return Decimal(value["__decimal__"])
    return value


def _size(count: int) -> str:
    return f"{count / 2**20:.3g} MiB" if count >= 2**20 else f"{count} bytes"
