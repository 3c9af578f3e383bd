"""Types, asked without running their code; and the single values of those that are known."""

from __future__ import annotations

import re
from array import array
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from crisper.core.preview.text import MARGIN, visible

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")
_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")

_type_name = type.__dict__["__name__"].__get__
_type_bases = type.__dict__["__mro__"].__get__


def name_of(value: object) -> str:
    return visible(str(_type_name(type(value)))[:64])


def bases_of(value: object) -> tuple[type, ...]:
    bases: tuple[type, ...] = _type_bases(type(value))
    return (Enum,) if Enum in bases else bases  # an IntEnum is an Enum first


def first_of(table: dict[type, _T], bases: tuple[type, ...]) -> _T | None:
    return next((table[base] for base in bases if base in table), None)


def _int(value: int) -> str:
    bits = int.bit_length(value)
    return int.__repr__(value) if bits <= 1024 else f'{{"__truncated__":true,"type":"int","bits":{bits}}}'


def _float(value: float) -> str:
    text = float.__repr__(value)
    return f'{{"__float__":"{text}"}}' if text[-1] in "fn" else text


def _buffer(value: bytes | bytearray | memoryview | array[Any]) -> str:
    with memoryview(value) as view:
        size, head = view.nbytes, view[:32].tobytes()[:32]
    shown = "" if b":/" in head else f',"head":"{head.hex()}"'
    return f'{{"__bytes__":{size}{shown}}}'


def _enum(value: Enum) -> str:
    return f"{name_of(value)}.{object.__getattribute__(value, '_name_')}"


def repr_of(value: object) -> str:
    text = repr(value)
    return _ADDRESS.sub("", text) if str.__len__(text) < MARGIN else text


ATOMS: dict[type, Callable[[Any], str]] = {
    type(None): lambda _: "null",
    bool: lambda value: "true" if value else "false",
    int: _int,
    float: _float,
    bytes: _buffer,
    bytearray: _buffer,
    memoryview: _buffer,
    array: _buffer,
}

TEXTS: dict[type, Callable[[Any], str]] = {
    Enum: _enum,
    str: lambda value: value,
    datetime: datetime.isoformat,
    date: date.isoformat,
    time: time.isoformat,
    timedelta: timedelta.__str__,
    Decimal: Decimal.__str__,
    UUID: UUID.__str__,
}
