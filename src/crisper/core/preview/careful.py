"""The careful way: anything, whole or cut, each item to its share."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from crisper.core.preview.boxes import Box, Keys, box_of
from crisper.core.preview.quick import MAX_DEPTH
from crisper.core.preview.redaction import LONGEST_NAME, Rules
from crisper.core.preview.text import MARGIN, encode, size_of, visible
from crisper.core.preview.types import ATOMS, TEXTS, bases_of, first_of, name_of, repr_of

if TYPE_CHECKING:
    from collections.abc import Callable

_OMITTED = '"…"'
_OMITTED_SIZE = 5
_FAIR_SHARE = 128  # bytes: room for a string's truncated form and some of its head


class _TooBig(Exception):
    """The value does not fit whole."""


def careful(value: object, limit: int, rules: Rules) -> str:
    try:
        return Writer(rules, fair=False).write(value, limit)
    except _TooBig:
        return Writer(rules, fair=True).write(value, limit)


class Writer:
    """Writes values within a room in bytes: whole or not at all; or (`fair`) cut, each item to its share."""

    def __init__(self, rules: Rules, *, fair: bool) -> None:
        self.rules = rules
        self._fair = fair
        self._path: set[int] = set()

    def write(self, value: object, room: int) -> str:
        try:
            return self._fitting(self._form(value, room), room)
        except _TooBig:
            raise
        except Exception as error:  # a hostile repr, a value that another thread changes
            return self._fitting(self._unrepresentable(value, error), room)

    def name_of(self, key: object) -> str:
        """Of a key that is no text."""
        return Writer(self.rules, fair=True).write(key, LONGEST_NAME).strip('"')

    def _form(self, value: object, room: int) -> str:
        bases = bases_of(value)
        if (as_box := box_of(bases)) is not None:
            return self._nested(value, as_box, room)
        if (as_atom := first_of(ATOMS, bases)) is not None:
            return as_atom(value)
        if (as_text := first_of(TEXTS, bases)) is not None:
            return self._string(as_text(value), room)
        text = self._string(repr_of(value), room - len('{"__repr__":}'), kind=name_of(value))
        return text if text[0] == "{" else f'{{"__repr__":{text}}}'

    def _nested(self, value: object, as_box: Callable[[Any, Keys], Box], room: int) -> str:
        if id(value) in self._path:
            return f'{{"__cycle__":{encode(name_of(value))}}}'
        box = as_box(value, self)
        if len(self._path) >= MAX_DEPTH:
            return f"{_truncated(name_of(value), box.length)}}}"
        self._path.add(id(value))
        try:
            parts = self._filled(box, room - size_of(box.opening) - len(box.closing))
        finally:
            self._path.discard(id(value))
        return self._boxed(value, as_box, box, parts, room)

    def _filled(self, box: Box, room: int) -> list[str]:
        parts: list[str] = []
        for left, (label, item) in zip(range(box.length, 0, -1), box.entries, strict=False):
            share = min(room, max(room // left, _FAIR_SHARE)) if self._fair else room
            inner = share - size_of(label) - 1
            if inner < _OMITTED_SIZE:
                break
            parts.append(label + self.write(item, inner))
            room -= size_of(parts[-1]) + 1
        return parts

    def _boxed(
        self, value: object, as_box: Callable[[Any, Keys], Box], box: Box, parts: list[str], room: int
    ) -> str:
        if len(parts) == box.length:
            return f"{box.opening}{','.join(parts)}{box.closing}"
        self._cut()
        keys = _first_keys(as_box(value, self), room // 4)
        start = f'{_truncated(name_of(value), box.length)}{keys},"head":{box.opening}'
        spare = room - size_of(start) - len(box.closing) - 1
        return f"{start}{','.join(_within(parts, spare))}{box.closing}}}" if spare >= 0 else _OMITTED

    def _string(self, value: str, room: int, kind: str = "str") -> str:
        length = str.__len__(value)
        window = str.__getitem__(value, slice(0, max(room, 0) + MARGIN))
        shown = visible(self.rules.scrubbed(window, is_cut=length > len(window)))
        if length == len(window) and size_of(text := encode(shown)) <= room:
            return text
        self._cut()
        start = f'{_truncated(kind, length, length if str.isascii(value) else None)},"head":'
        head = _string_within(shown, room - size_of(start) - 1)
        return f"{start}{head}}}" if head else _OMITTED

    def _unrepresentable(self, value: object, error: Exception) -> str:
        try:
            said = self.rules.scrubbed(str.__getitem__(str(error), slice(0, MARGIN)), is_cut=True)[:80]
        except Exception:  # an error whose own text fails
            said = ""
        told = {
            "__unrepresentable__": name_of(value),
            "error": f"{name_of(error)}: {visible(said)}".strip(": "),
        }
        return encode(told)

    def _fitting(self, text: str, room: int) -> str:
        if size_of(text) <= room:
            return text
        self._cut()
        return _OMITTED

    def _cut(self) -> None:
        if not self._fair:
            raise _TooBig


def _truncated(kind: str, length: int, size: int | None = None) -> str:
    return f'{{"__truncated__":true,"type":{encode(kind)},"length":{length},"size":{encode(size)}'


def _string_within(text: str, room: int) -> str:
    """The longest start of the text, near enough, whose JSON fits the room; empty when none does."""
    text = text[: max(room, 0)]
    while text and (size := size_of(encode(text))) > room:
        text = text[: len(text) * room // size]
    return encode(text) if text else ""


def _within(parts: list[str], room: int) -> list[str]:
    total = sum(map(size_of, parts)) + len(parts)
    while parts and total > room + 1:
        total -= size_of(parts.pop()) + 1
    return parts


def _first_keys(box: Box, room: int) -> str:
    keys = _within([label[:-1] for label, _ in islice(box.entries, 12) if label], room)
    return f',"keys":[{",".join(keys)}]' if keys else ""
