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

from typing import TYPE_CHECKING, Final

from crisper.core.preview.careful import careful
from crisper.core.preview.quick import quick
from crisper.core.preview.redaction import DEFAULT_REDACT, rules_of

if TYPE_CHECKING:
    pass

MIN_LIMIT: Final = 64


def preview(value: object, *, limit_bytes: int = 4096, redact: tuple[str, ...] = DEFAULT_REDACT) -> str:
    """JSON text of `value`, at most `limit_bytes` long in UTF-8.

    Raises ValueError for a limit below `MIN_LIMIT`, and never because of the value.
    """
    if limit_bytes < MIN_LIMIT:
        raise ValueError(f"limit_bytes is {limit_bytes}; a preview needs at least {MIN_LIMIT}")
    rules = rules_of(redact)
    return quick(value, limit_bytes, rules) or careful(value, limit_bytes, rules)
