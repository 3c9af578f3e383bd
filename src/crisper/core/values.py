"""Values that people write, read as what they must be. Pure.

Keys are the names of the types of `crisper.settings.Settings`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}

EXPECTED = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "tuple[str, ...]": "names, as a list or separated by commas",
}


def _bool(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
        return value.lower() in _TRUE
    if value in (0, 1):
        return bool(value)
    raise ValueError(value)


def _int(value: Any) -> int:
    if isinstance(value, str):
        return int(value)
    if isinstance(value, bool) or int(value) != value:
        raise ValueError(value)
    return int(value)


def _float(value: Any) -> float:
    number = float(value)
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError(value)
    return number


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _names(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else [_str(part) for part in value]
    return tuple(part.strip() for part in parts if part.strip())


#: Each raises TypeError, ValueError or OverflowError for what it is not.
READ: dict[str, Callable[[Any], Any]] = {
    "bool": _bool,
    "int": _int,
    "float": _float,
    "str": _str,
    "tuple[str, ...]": _names,
}
