"""JSON texts, and how much room they take."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

#: Characters read past a cut, so that a secret across it is recognised.
MARGIN: Final = 512

encode: Callable[[object], str] = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":")
).encode


def size_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def visible(text: str) -> str:
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
