"""Times as people write them: an age (`2h`), or a moment (`2025-03-09T03:12Z`)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from crisper.errors import BadQuestion

#: A registry's times are 64-bit milliseconds; a cursor or an age beyond is nonsense.
MOST_MS = 2**62

AGE = r"(?:[0-9]{1,9}[smhdw])+"
MOMENT = (
    r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])"
    r"(?:[T ](?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,6})?)?"
    r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])?)?"
)

_UNITS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_AGE, _MOMENT = re.compile(AGE), re.compile(MOMENT)
_AGE_PART = re.compile(r"([0-9]+)([smhdw])")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Moment(NamedTuple):
    """A time of the registry's clock: in ms since the epoch, or so many ms ago."""

    ms: int
    ago: bool

    def at(self, now: int) -> int:
        return now - self.ms if self.ago else self.ms


def age_ms(text: str) -> int:
    """Milliseconds of `90s`, `10m`, `2h`, `1d12h`. Raises `BadQuestion` for anything else."""
    if not _AGE.fullmatch(text):
        raise BadQuestion(
            f"{text[:40]!r} is no age: write a number with s, m, h, d or w, such as 90s, 10m, 2h or 1d12h"
        )
    return min(sum(int(number) * _UNITS[unit] for number, unit in _AGE_PART.findall(text)), MOST_MS)


def moment(text: str) -> Moment:
    """Without an offset it is UTC, as are all times that Crisper shows. Raises `BadQuestion`."""
    if _AGE.fullmatch(text):
        return Moment(age_ms(text), True)
    if not _MOMENT.fullmatch(text):
        raise _nonsense(text)
    try:
        told = datetime.fromisoformat(text)
        told = told.replace(tzinfo=UTC) if told.tzinfo is None else told.astimezone(UTC)
    except (ValueError, OverflowError):  # no calendar has that day
        raise _nonsense(text) from None
    return Moment((told - _EPOCH) // timedelta(milliseconds=1), False)


def _nonsense(text: str) -> BadQuestion:
    return BadQuestion(
        f"{text[:40]!r} is no time: write an age, such as 10m, 2h or 1d12h, or a moment,"
        " such as 2025-03-09, 2025-03-09T03:12 or 2025-03-09T03:12:30Z; without an offset it is UTC"
    )
