"""What people see of a task's arguments: a structured, bounded, redacted JSON text.

The exact bytes are kept elsewhere. A value that fits is shown whole. What does not fit, or is not JSON, is
shown in one of these shapes:

    {"__truncated__": true, "type": "list", "length": N, "size": bytes or null, "head": [...]}
                                        the first items; a dict has its first "keys" too; a string's head is
                                        a string; below `MAX_DEPTH` is no "head"; an int has "bits" instead
    "…"                                 there was no room for even that
    {"__bytes__": N, "head": "hex"}     bytes; without the head when it looks like a URL
    {"__set__": [...]}                  set, frozenset
    {"__object__": "T", "fields": {}}   dataclass, named tuple
    {"__repr__": "..."}                 any other object, without its memory address
    {"__float__": "nan"}                a number that JSON has no word for
    {"__cycle__": "list"}               a container that holds itself
    {"__unrepresentable__": "T", "error": "ValueError: ..."}
    {"__undecoded__": content type, "size": bytes or null, "sha256": 16 hex digits, "hashed": N, "why": "..."}
                                        a message body; its digest is of its first "hashed" bytes

Tuples are shown as lists; dates, times, decimals, UUIDs and enums as strings. A NUL or a lone surrogate is
shown as U+FFFD, for a database's JSON type takes neither. Redaction comes before cutting: no cut shows half a
secret.

Nothing of a value is trusted: containers are read by the builtin type's own methods, `__class__` is never
asked, an unknown iterable is never iterated. Only the `repr` of an unknown object runs code of its own. The
work is bounded by the limit, not by the value.
"""

from __future__ import annotations

import json
import re
from array import array
from base64 import b64decode
from collections import deque
from dataclasses import fields
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar
from unicodedata import normalize
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

DEFAULT_REDACT: Final = (
    *("password", "passwd", "secret", "token", "authorization", "api_key", "apikey", "credential"),
    *("private_key", "cookie", "session", "card_number", "cvv", "ssn"),
)
"""Parts of a key whose value is not shown. Case, `-` and `_` do not count. A part of up to three letters must
begin or end a word of the key, or "ssn" would hide every `class_name`."""

DECODE_LIMIT: Final = 1 << 20
"""Bytes. A larger message body is described, not decoded; at most so much of a described body is hashed."""

MIN_LIMIT: Final = 64
MAX_DEPTH: Final = 16

_REDACTED = "[redacted]"
_OMITTED = '"…"'
_OMITTED_SIZE = 5
_FAIR_SHARE = 128  # bytes: room for a string's truncated form and some of its head
_MARGIN = 512  # characters read past a cut, so that a secret across it is recognised
_LONGEST_NAME = 256  # a longer key is no name; its value is hidden rather than the key searched
_PLAIN_INT = 1 << 63

_T = TypeVar("_T")

_encode: Callable[[object], str] = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":")
).encode


def preview(value: object, *, limit_bytes: int = 4096, redact: tuple[str, ...] = DEFAULT_REDACT) -> str:
    """JSON text of `value`, at most `limit_bytes` long in UTF-8.

    Raises ValueError for a limit below `MIN_LIMIT`, and never because of the value.
    """
    if limit_bytes < MIN_LIMIT:
        raise ValueError(f"limit_bytes is {limit_bytes}; a preview needs at least {MIN_LIMIT}")
    rules = _rules(redact)
    return _quick(value, limit_bytes, rules) or _careful(value, limit_bytes, rules)


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


# --- Redaction


_SEPARATORS = re.compile(r"[\W_]+")
_WORD_ENDS = re.compile(r"[\W_\d]+|(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_URL_REST = re.compile(r'://(?:(?!://)[^\s"<>])*')
_PORT = re.compile(r"\d+[/?#]")
_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")
# What may stand after `password=` in a text: a bracketed value hides the rest, for its end cannot be known.
_SAID_VALUE = (
    r"""(?:[\[{(].*|(?:(?:bearer|basic|digest|token)\s+)?[^\s,;&"')}\]]*"""
    r"""(?:"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?)?)"""
)


class _Rules:
    """One set of redacted names: asks of a key whether it hides its value, and cleans texts."""

    def __init__(self, redact: tuple[str, ...]) -> None:
        terms = {term for term in map(_squeezed, redact) if term}
        self._parts = tuple(term for term in terms if len(term) > 3)
        self._words = tuple(term for term in terms if len(term) <= 3)
        self._said = _said(redact) if terms else None
        self.hides = lru_cache(maxsize=4096)(self._hides)

    def _hides(self, key: str) -> bool:
        squeezed = _squeezed(key)
        return any(part in squeezed for part in self._parts) or any(
            word.startswith(self._words) or word.endswith(self._words)
            for word in map(str.casefold, _WORD_ENDS.split(key))
        )

    def scrubbed(self, text: str, *, is_cut: bool = False) -> str:
        """The text without the passwords of URLs and without what follows a redacted name and `=` or `:`."""
        if ":" not in text and "=" not in text:
            return text
        if "://" in text:
            end = len(text) if is_cut else -1
            text = _URL_REST.sub(lambda url: _without_password(url[0], url.end() == end), text)
        return self._said.sub(rf"\1{_REDACTED}", text) if self._said else text


@lru_cache(maxsize=8)
def _rules(redact: tuple[str, ...]) -> _Rules:
    return _Rules(redact)


def _squeezed(key: str) -> str:
    return _SEPARATORS.sub("", normalize("NFKC", key).casefold())


def _said(redact: tuple[str, ...]) -> re.Pattern[str]:
    names = ("[-_ ]?".join(map(re.escape, _SEPARATORS.split(term.strip("-_")))) for term in redact)
    either = "|".join(name if len(name) > 3 else rf"(?<![^\W_]){name}(?![^\W_])" for name in names if name)
    return re.compile(
        rf"""((?:{either})[\w-]{{0,64}}[\\"'\]]{{0,4}}\s{{0,4}}(?:=>|[:=])\s{{0,4}}){_SAID_VALUE}""",
        re.I | re.S,
    )


def _without_password(rest: str, is_cut: bool) -> str:
    if is_cut and ":" in rest[3:]:  # where the password ends is past the cut
        return f"://{rest[3:].partition(':')[0]}:{_REDACTED}"
    userinfo, at, host = rest[3:].rpartition("@")
    user, colon, password = userinfo.partition(":")
    if not at or any(mark in user for mark in "/?#") or _PORT.match(password):
        return rest
    # A long user name is an access token more often than a name.
    shown = user if len(user) < 20 else _REDACTED
    return f"://{shown}{colon}{_REDACTED if colon else ''}@{host}"


# --- The quick way: small plain values with nothing to hide, which is nearly every task


def _quick(value: object, limit: int, rules: _Rules) -> str | None:
    try:
        if _plain_room(value, limit, rules, MAX_DEPTH) < 0:
            return None
        text = _encode(value)
        return text if len(text.encode()) <= limit and "\\u0000" not in text else None
    except (ValueError, RuntimeError):  # nan, a lone surrogate, a dict that changes meanwhile
        return None


def _plain_room(value: object, room: int, rules: _Rules, depth: int) -> int:
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


def _plain_items(value: Any, room: int, rules: _Rules, depth: int) -> int:
    if type(value) is dict:
        for key in value:
            if type(key) is not str or len(key) > _LONGEST_NAME:
                return -1
            if rules.hides(key) or rules.scrubbed(key) != key:
                return -1
        value = value.values()
    for item in value:
        room = _plain_room(item, room, rules, depth)
        if room < 0:
            return -1
    return room


# --- The careful way: anything


class _TooBig(Exception):
    """The value does not fit whole."""


class _Box(NamedTuple):
    """A container as it is written: `entries` pairs a label (nothing, or a JSON key and `:`) with a value."""

    length: int
    entries: Iterator[tuple[str, object]]
    opening: str = "["
    closing: str = "]"


def _careful(value: object, limit: int, rules: _Rules) -> str:
    try:
        return _Writer(rules, fair=False).write(value, limit)
    except _TooBig:
        return _Writer(rules, fair=True).write(value, limit)


class _Writer:
    """Writes values within a room in bytes: whole or not at all; or (`fair`) cut, each item to its share."""

    def __init__(self, rules: _Rules, *, fair: bool) -> None:
        self._rules = rules
        self._fair = fair
        self._path: set[int] = set()

    def write(self, value: object, room: int) -> str:
        try:
            return self._fitting(self._form(value, room), room)
        except _TooBig:
            raise
        except Exception as error:  # a hostile repr, a value that another thread changes
            return self._fitting(self._unrepresentable(value, error), room)

    def _form(self, value: object, room: int) -> str:
        bases = _bases(value)
        if (as_box := _box_of(bases)) is not None:
            return self._nested(value, as_box, room)
        if (as_atom := _first(_ATOMS, bases)) is not None:
            return as_atom(value)
        if (as_text := _first(_TEXTS, bases)) is not None:
            return self._string(as_text(value), room)
        text = self._string(_repr(value), room - len('{"__repr__":}'), kind=_name(value))
        return text if text[0] == "{" else f'{{"__repr__":{text}}}'

    def _nested(self, value: object, as_box: Callable[[Any, _Rules], _Box], room: int) -> str:
        if id(value) in self._path:
            return f'{{"__cycle__":{_encode(_name(value))}}}'
        box = as_box(value, self._rules)
        if len(self._path) >= MAX_DEPTH:
            return f"{_truncated(_name(value), box.length)}}}"
        self._path.add(id(value))
        try:
            parts = self._filled(box, room - _size(box.opening) - len(box.closing))
        finally:
            self._path.discard(id(value))
        return self._boxed(value, as_box, box, parts, room)

    def _filled(self, box: _Box, room: int) -> list[str]:
        parts: list[str] = []
        for left, (label, item) in zip(range(box.length, 0, -1), box.entries, strict=False):
            share = min(room, max(room // left, _FAIR_SHARE)) if self._fair else room
            inner = share - _size(label) - 1
            if inner < _OMITTED_SIZE:
                break
            parts.append(label + self.write(item, inner))
            room -= _size(parts[-1]) + 1
        return parts

    def _boxed(
        self, value: object, as_box: Callable[[Any, _Rules], _Box], box: _Box, parts: list[str], room: int
    ) -> str:
        if len(parts) == box.length:
            return f"{box.opening}{','.join(parts)}{box.closing}"
        self._cut()
        keys = _first_keys(as_box(value, self._rules), room // 4)
        start = f'{_truncated(_name(value), box.length)}{keys},"head":{box.opening}'
        spare = room - _size(start) - len(box.closing) - 1
        return f"{start}{','.join(_within(parts, spare))}{box.closing}}}" if spare >= 0 else _OMITTED

    def _string(self, value: str, room: int, kind: str = "str") -> str:
        length = str.__len__(value)
        window = str.__getitem__(value, slice(0, max(room, 0) + _MARGIN))
        shown = _storable(self._rules.scrubbed(window, is_cut=length > len(window)))
        if length == len(window) and _size(text := _encode(shown)) <= room:
            return text
        self._cut()
        start = f'{_truncated(kind, length, length if str.isascii(value) else None)},"head":'
        head = _string_within(shown, room - _size(start) - 1)
        return f"{start}{head}}}" if head else _OMITTED

    def _unrepresentable(self, value: object, error: Exception) -> str:
        try:
            said = self._rules.scrubbed(str.__getitem__(str(error), slice(0, _MARGIN)), is_cut=True)[:80]
        except Exception:  # an error whose own text fails
            said = ""
        told = {
            "__unrepresentable__": _name(value),
            "error": f"{_name(error)}: {_storable(said)}".strip(": "),
        }
        return _encode(told)

    def _fitting(self, text: str, room: int) -> str:
        if _size(text) <= room:
            return text
        self._cut()
        return _OMITTED

    def _cut(self) -> None:
        if not self._fair:
            raise _TooBig


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _storable(text: str) -> str:
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _truncated(kind: str, length: int, size: int | None = None) -> str:
    return f'{{"__truncated__":true,"type":{_encode(kind)},"length":{length},"size":{_encode(size)}'


def _string_within(text: str, room: int) -> str:
    """The longest start of the text, near enough, whose JSON fits the room; empty when none does."""
    text = text[: max(room, 0)]
    while text and (size := _size(_encode(text))) > room:
        text = text[: len(text) * room // size]
    return _encode(text) if text else ""


def _within(parts: list[str], room: int) -> list[str]:
    total = sum(map(_size, parts)) + len(parts)
    while parts and total > room + 1:
        total -= _size(parts.pop()) + 1
    return parts


def _first_keys(box: _Box, room: int) -> str:
    keys = _within([label[:-1] for label, _ in islice(box.entries, 12) if label], room)
    return f',"keys":[{",".join(keys)}]' if keys else ""


# --- Types, asked without running their code


_type_name = type.__dict__["__name__"].__get__
_type_bases = type.__dict__["__mro__"].__get__


def _name(value: object) -> str:
    return _storable(str(_type_name(type(value)))[:64])


def _bases(value: object) -> tuple[type, ...]:
    bases: tuple[type, ...] = _type_bases(type(value))
    return (Enum,) if Enum in bases else bases  # an IntEnum is an Enum first


def _first(table: dict[type, _T], bases: tuple[type, ...]) -> _T | None:
    return next((table[base] for base in bases if base in table), None)


def _box_of(bases: tuple[type, ...]) -> Callable[[Any, _Rules], _Box] | None:
    if any("__dataclass_fields__" in vars(base) for base in bases):
        return _dataclass_box
    if tuple in bases and any("_fields" in vars(base) for base in bases):
        return _named_tuple_box
    return _first(_BOXES, bases)


# --- Containers, by what their builtin type says of them


def _list_box(value: list[Any], _: _Rules) -> _Box:
    return _Box(list.__len__(value), (("", item) for item in list.__iter__(value)))


def _tuple_box(value: tuple[Any, ...], _: _Rules) -> _Box:
    return _Box(tuple.__len__(value), (("", item) for item in tuple.__iter__(value)))


def _deque_box(value: deque[Any], _: _Rules) -> _Box:
    return _Box(deque.__len__(value), (("", item) for item in deque.__iter__(value)))


def _set_box(value: set[Any], _: _Rules) -> _Box:
    return _Box(set.__len__(value), (("", item) for item in set.__iter__(value)), '{"__set__":[', "]}")


def _frozenset_box(value: frozenset[Any], _: _Rules) -> _Box:
    return _Box(
        frozenset.__len__(value), (("", item) for item in frozenset.__iter__(value)), '{"__set__":[', "]}"
    )


def _dict_box(value: dict[Any, Any], rules: _Rules) -> _Box:
    return _Box(dict.__len__(value), _labelled(dict.items(value), rules), "{", "}")


def _dataclass_box(value: Any, rules: _Rules) -> _Box:
    shape = fields(type(value))
    # A field that its author kept out of the repr is kept out of sight here too.
    held = ((field.name, _attribute(value, field.name) if field.repr else _REDACTED) for field in shape)
    return _fields_box(value, len(shape), held, rules)


def _named_tuple_box(value: Any, rules: _Rules) -> _Box:
    names = tuple(map(str, type(value)._fields))
    return _fields_box(value, len(names), zip(names, tuple.__iter__(value), strict=True), rules)


def _fields_box(value: object, length: int, held: Iterable[tuple[str, object]], rules: _Rules) -> _Box:
    return _Box(length, _labelled(held, rules), f'{{"__object__":{_encode(_name(value))},"fields":{{', "}}")


def _attribute(value: object, name: str) -> object:
    try:
        return object.__getattribute__(value, name)
    except AttributeError:
        return "(not set)"


def _labelled(items: Iterable[tuple[Any, object]], rules: _Rules) -> Iterator[tuple[str, object]]:
    seen: set[str] = set()
    for key, item in items:
        name = _key_text(key, rules)
        label = _shortened(rules.scrubbed(name[: _LONGEST_NAME + 1]))
        if label in seen:  # 1 and "1", or two long keys with one beginning
            label = f"{label}#{len(seen)}"
        seen.add(label)
        yield f"{_encode(label)}:", _REDACTED if len(name) > _LONGEST_NAME or rules.hides(name) else item


def _key_text(key: Any, rules: _Rules) -> str:
    if issubclass(type(key), bytes):
        return bytes.decode(bytes.__getitem__(key, slice(0, _LONGEST_NAME + 1)), "latin-1")
    if issubclass(type(key), str) and not issubclass(type(key), Enum):
        return str.__getitem__(key, slice(0, _LONGEST_NAME + 1))
    return _Writer(rules, fair=True).write(key, _LONGEST_NAME).strip('"')


def _shortened(name: str) -> str:
    return _storable(name if len(name) <= _LONGEST_NAME else f"{name[:64]}…")


_BOXES: dict[type, Callable[[Any, _Rules], _Box]] = {
    list: _list_box,
    tuple: _tuple_box,
    deque: _deque_box,
    set: _set_box,
    frozenset: _frozenset_box,
    dict: _dict_box,
}


# --- Single values


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
    return f"{_name(value)}.{object.__getattribute__(value, '_name_')}"


def _repr(value: object) -> str:
    text = repr(value)
    return _ADDRESS.sub("", text) if str.__len__(text) < _MARGIN else text


_ATOMS: dict[type, Callable[[Any], str]] = {
    type(None): lambda _: "null",
    bool: lambda value: "true" if value else "false",
    int: _int,
    float: _float,
    bytes: _buffer,
    bytearray: _buffer,
    memoryview: _buffer,
    array: _buffer,
}

_TEXTS: dict[type, Callable[[Any], str]] = {
    Enum: _enum,
    str: lambda value: value,
    datetime: datetime.isoformat,
    date: date.isoformat,
    time: time.isoformat,
    timedelta: timedelta.__str__,
    Decimal: Decimal.__str__,
    UUID: UUID.__str__,
}


# --- Message bodies


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
