"""Text from outside, made safe and short for a terminal. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime

#: Controls, directions, invisible and unassigned characters: what a terminal may obey instead of showing.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"})
_UUID = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}")
#: Marks that stand on one letter: more than three only cover the lines above and below.
_MARK = r"[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
_STACKED = re.compile(rf"({_MARK}{{3}}){_MARK}+")
SHORT = 8


def clean(text: object, *, most: int = 200) -> str:
    """One line that a terminal only shows, at most `most` characters of the original."""
    text = str(text)
    shown = text[:most].rstrip() if len(text) > most else text
    safe = shown if shown.isascii() and shown.isprintable() else _spelt_out(shown)
    return f"{safe}…" if len(text) > most else safe


def _spelt_out(text: str) -> str:
    return _STACKED.sub(r"\1", "".join(map(_safe, text)))


def _safe(char: str) -> str:
    if " " <= char <= "~" or unicodedata.category(char) not in _UNSAFE:
        return char
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def short_ids(ids: Iterable[str]) -> dict[str, str]:
    """UUIDs cut to as many characters, at least 8, as tell them apart; other ids as they are."""
    ids = list(ids)
    short = {}
    for id in ids:
        if not _UUID.fullmatch(id):
            short[id] = id
            continue
        length = SHORT
        while any(other != id and other.startswith(id[:length]) for other in ids):
            length += 1
        short[id] = id[:length]
    return short


def age(since: str | None, now: datetime | None = None) -> str:
    """`12s`, `3m`, `2h`, `5d` since a time of our JSON; `-` for none."""
    if since is None:
        return "-"
    return short_age(((now or datetime.now(UTC)) - datetime.fromisoformat(since)).total_seconds())


def short_age(seconds: float) -> str:
    """`12s`, `3m`, `2h`, `5d`."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(max(0.0, seconds))}s"


def seconds(duration: float) -> str:
    """`0.42 s`, `12.3 s`, `3 min 20 s`."""
    if duration < 60:
        return f"{duration:.3g} s"
    minutes, rest = divmod(int(duration), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
