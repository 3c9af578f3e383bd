"""The quick way: small plain values with nothing to hide, which is nearly every task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from crisper.core.preview.redaction import LONGEST_NAME, Rules
from crisper.core.preview.text import encode

if TYPE_CHECKING:
    pass

MAX_DEPTH: Final = 16
_PLAIN_INT = 1 << 63


def quick(value: object, limit: int, rules: Rules) -> str | None:
    try:
        if _plain_room(value, limit, rules, MAX_DEPTH) < 0:
            return None
        text = encode(value)
        return text if len(text.encode()) <= limit and "\\u0000" not in text else None
    except (ValueError, RuntimeError):  # nan, a lone surrogate, a dict that changes meanwhile
        return None


def _plain_room(value: object, room: int, rules: Rules, depth: int) -> int:
    """What is left of `room` when `value` may be encoded as it is; below zero when it may not."""
    kind = type(value)
    if kind is str:
        return room - len(value) if len(value) < room and rules.scrubbed(value) == value else -1  # type: ignore[arg-type]
    if kind is int:
        return room - 1 if -_PLAIN_INT < value < _PLAIN_INT else -1  # type: ignore[operator]
    if value is None or kind is bool or kind is float:
        return room - 1
    if depth and (kind is list or kind is dict) and len(value) < room:  # type: ignore[arg-type]
        return _plain_items(value, room - 2, rules, depth - 1)
    return -1


def _plain_items(value: Any, room: int, rules: Rules, depth: int) -> int:
    if type(value) is dict:
        for key in value:
            if type(key) is not str or len(key) > LONGEST_NAME:
                return -1
            if rules.hides(key) or rules.scrubbed(key) != key:
                return -1
        value = value.values()
    for item in value:
        room = _plain_room(item, room, rules, depth)
        if room < 0:
            return -1
    return room
