"""Containers as they are written, by what their builtin type says of them; their own code is never asked."""

from __future__ import annotations

from collections import deque
from dataclasses import fields
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from crisper.core.preview.redaction import LONGEST_NAME, REDACTED, Rules
from crisper.core.preview.text import encode, visible
from crisper.core.preview.types import first_of, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class Keys(Protocol):
    """Names the keys of a container; which of them hide their values its rules say."""

    rules: Rules

    def name_of(self, key: object) -> str: ...


class Box(NamedTuple):
    """A container as it is written: `entries` pairs a label (nothing, or a JSON key and `:`) with a value."""

    length: int
    entries: Iterator[tuple[str, object]]
    opening: str = "["
    closing: str = "]"


def _list_box(value: list[Any], _: Keys) -> Box:
    return Box(list.__len__(value), (("", item) for item in list.__iter__(value)))


def _tuple_box(value: tuple[Any, ...], _: Keys) -> Box:
    return Box(tuple.__len__(value), (("", item) for item in tuple.__iter__(value)))


def _deque_box(value: deque[Any], _: Keys) -> Box:
    return Box(deque.__len__(value), (("", item) for item in deque.__iter__(value)))


def _set_box(value: set[Any], _: Keys) -> Box:
    return Box(set.__len__(value), (("", item) for item in set.__iter__(value)), '{"__set__":[', "]}")


def _frozenset_box(value: frozenset[Any], _: Keys) -> Box:
    return Box(
        frozenset.__len__(value), (("", item) for item in frozenset.__iter__(value)), '{"__set__":[', "]}"
    )


def _dict_box(value: dict[Any, Any], keys: Keys) -> Box:
    return Box(dict.__len__(value), _labelled(dict.items(value), keys), "{", "}")


def _dataclass_box(value: Any, keys: Keys) -> Box:
    shape = fields(type(value))
    # A field that its author kept out of the repr is kept out of sight here too.
    held = ((field.name, _attribute(value, field.name) if field.repr else REDACTED) for field in shape)
    return _fields_box(value, len(shape), held, keys)


def _named_tuple_box(value: Any, keys: Keys) -> Box:
    names = tuple(map(str, type(value)._fields))
    return _fields_box(value, len(names), zip(names, tuple.__iter__(value), strict=True), keys)


def _fields_box(value: object, length: int, held: Iterable[tuple[str, object]], keys: Keys) -> Box:
    return Box(length, _labelled(held, keys), f'{{"__object__":{encode(name_of(value))},"fields":{{', "}}")


def _attribute(value: object, name: str) -> object:
    try:
        return object.__getattribute__(value, name)
    except AttributeError:
        return "(not set)"


def _labelled(items: Iterable[tuple[Any, object]], keys: Keys) -> Iterator[tuple[str, object]]:
    seen: set[str] = set()
    for key, item in items:
        name = _key_text(key, keys)
        label = _shortened(keys.rules.scrubbed(name[: LONGEST_NAME + 1]))
        if label in seen:  # 1 and "1", or two long keys with one beginning
            label = f"{label}#{len(seen)}"
        seen.add(label)
        yield f"{encode(label)}:", REDACTED if len(name) > LONGEST_NAME or keys.rules.hides(name) else item


def _key_text(key: Any, keys: Keys) -> str:
    if issubclass(type(key), bytes):
        return bytes.decode(bytes.__getitem__(key, slice(0, LONGEST_NAME + 1)), "latin-1")
    if issubclass(type(key), str) and not issubclass(type(key), Enum):
        return str.__getitem__(key, slice(0, LONGEST_NAME + 1))
    return keys.name_of(key)


def _shortened(name: str) -> str:
    return visible(name if len(name) <= LONGEST_NAME else f"{name[:64]}…")


_BOXES: dict[type, Callable[[Any, Keys], Box]] = {
    list: _list_box,
    tuple: _tuple_box,
    deque: _deque_box,
    set: _set_box,
    frozenset: _frozenset_box,
    dict: _dict_box,
}


def box_of(bases: tuple[type, ...]) -> Callable[[Any, Keys], Box] | None:
    if any("__dataclass_fields__" in vars(base) for base in bases):
        return _dataclass_box
    if tuple in bases and any("_fields" in vars(base) for base in bases):
        return _named_tuple_box
    return first_of(_BOXES, bases)
