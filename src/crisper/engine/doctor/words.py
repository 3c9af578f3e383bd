"""Durations, sizes and lists, as the sentences have them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

#: Of many, so many are named.
NAMED = 3


def span(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h`, `2 days`."""
    for size, unit in ((172_800, "days"), (7200, "h"), (120, "min")):
        if seconds >= size:
            return f"{_short(seconds / _ONE[unit])} {unit}"
    return f"{_short(seconds)} s"


_ONE = {"days": 86_400, "h": 3600, "min": 60}


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def named(names: Iterable[str]) -> str:
    """`a, b, c and 4 more`."""
    names = list(names)
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest


def tasks(known: dict[str, tuple[float, str]]) -> str:
    """`proj.report took 12 min`, the longest first."""
    ordered = sorted(known.items(), key=lambda item: -item[1][0])
    return named(f"{name} {how} {span(seconds)}" for name, (seconds, how) in ordered)


def size(count: int) -> str:
    for unit, one in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= one:
            return f"{count / one:.3g} {unit}"
    return f"{count} bytes"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def round_up(seconds: float, steps: Sequence[int] = (60, 300, 900, 1800, 3600)) -> int:
    """Somewhat more than that, as a person would write it."""
    wanted = seconds * 1.5
    for step in steps:
        if wanted <= step:
            return step
    return int(-(-wanted // 3600) * 3600)


def literal(value: object) -> str:
    """Python's, in double quotes: to be pasted."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(key)}: {literal(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    return repr(value)


def version(parts: Sequence[int]) -> str:
    return ".".join(map(str, parts))
