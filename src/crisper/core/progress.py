"""How far a running attempt says it is: whatever it said, made small and plain. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from crisper.core.model import Progress

#: Characters of a note that are kept.
NOTE_MOST = 200
#: Beyond this an integer is told as a float: no place that shows it would show its last digits.
_EXACT = 2**53

#: What applications call these in the `meta` of `update_state`: Celery's own documentation says `current` and
#: `total`, the package celery-progress adds `percent` and `description`.
_DONE = ("done", "current", "processed", "completed", "progress")
_TOTAL = ("total", "count", "max")
_PERCENT = ("percent", "percentage", "pct")
_NOTE = ("note", "status", "description", "message", "stage", "step")


def progress(done: Any, total: Any = None, note: Any = None) -> Progress | None:
    """None if `done` is no number. A note that is no text is told by its type."""
    far = _number(done)
    if far is None:
        return None
    text = "" if note is None else note if isinstance(note, str) else f"a {type(note).__name__}"
    return Progress(far, _number(total), str(text)[:NOTE_MOST])


def progress_of_state(state: str, meta: Any) -> Progress | None:
    """What Celery's `update_state(state, meta=...)` says of progress; None if it says nothing of it."""
    told = meta if isinstance(meta, Mapping) else {}
    note = _first(told, _NOTE)
    note = note if isinstance(note, str) else None if state == "PROGRESS" else state
    done, total = _first(told, _DONE), _first(told, _TOTAL)
    if done is None:
        done, total = _first(told, _PERCENT), 100
    return progress(done, total, note)


def so_far(done: Any, total: Any) -> str:
    """`41 of 100`, `7`; empty for what is no number."""
    of = _count(total)
    return f"{_count(done)} of {of}" if of else _count(done)


def _count(number: Any) -> str:
    """Whole where it is whole, and short where it is not."""
    if not isinstance(number, (int, float)):
        return ""
    return f"{number:.0f}" if float(number).is_integer() else f"{number:.3g}"


def _first(told: Mapping[Any, Any], names: tuple[str, ...]) -> Any:
    return next((told[name] for name in names if told.get(name) is not None), None)


def _number(value: Any) -> int | float | None:
    """A plain finite number, of whatever kind it was; None for what is none."""
    if type(value) is int and -_EXACT <= value <= _EXACT:
        return value
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
