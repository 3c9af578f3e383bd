"""Workers over time, drawn by the server: lives, deaths, and when what was lost was brought back."""

from __future__ import annotations

import functools
from datetime import datetime, timedelta
from typing import Any

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from crisper.engine import lanes
from crisper.engine.moments import age_ms
from crisper.errors import BadQuestion
from crisper.faces.cli.story import death
from crisper.faces.cli.text import clean, plural
from crisper.faces.serve import asked, parameters
from crisper.faces.serve.access import Needs
from crisper.faces.serve.doors import Door
from crisper.faces.serve.registry import SHOWN_SECONDS, Registry
from crisper.faces.serve.render import page, part

SINCE = "6h"
PERIODS = ("1h", "6h", "1d", "7d")
_LONGEST_MS = 31 * 86_400_000
#: Lanes on the page; the API has all.
LANES = 60
#: Of the width, so that a life of a second is still seen.
_LEAST = 0.4
_TICKS = 6


class Timeline:
    def __init__(self, registry: Registry) -> None:
        self._registry, self._typed = registry, registry.place.typed

    def doors(self) -> list[Door]:
        look = Needs.VIEWER
        return [
            Door("GET", "/timeline", look, self.timeline, "Workers over time."),
            Door("GET", "/api/v1/timeline", look, self.answer, "Lives of workers over time."),
        ]

    def answer(self, request: Request) -> JSONResponse:
        asked.only(request, parameters.names("/api/v1/timeline"))
        within = _within(asked.text(request, "since", 40) or SINCE)
        ask = functools.partial(lanes.lanes, self._registry.reading, since_ms=within)
        return JSONResponse(self._registry.shown.ask(("lanes", within), ask, seconds=SHOWN_SECONDS))

    def timeline(self, request: Request) -> Response:
        asked.only(request, ("since",))
        since = asked.text(request, "since", 40) or SINCE
        within = _within(since)
        draw = functools.partial(self._drawn, within)
        shown = self._registry.shown.ask(("timeline", within), draw, seconds=SHOWN_SECONDS)
        return page(
            request.scope,
            "timeline.html",
            shown=shown,
            since=since,
            periods=PERIODS,
            line=f"{self._typed} workers --all",
        )

    def _drawn(self, within: int) -> Markup:
        answer = lanes.lanes(self._registry.reading, since_ms=within)
        scale = _Scale(answer["since"], answer["now"])
        drawn = [_drawn(lane, scale) for lane in answer["lanes"][:LANES]]
        left = len(answer["lanes"]) - len(drawn)
        return part(
            "timeline.html",
            lanes=drawn,
            ticks=scale.ticks(),
            deaths=[death for lane in drawn for death in lane["deaths"]],
            left=f"{plural(left, 'worker')} more" if left else "even older lives" if answer["more"] else "",
            most_back=None if answer["complete"] else lanes.MOST_BROUGHT_BACK,
        )


def _within(since: str) -> int:
    within = age_ms(since)
    if not 60_000 <= within <= _LONGEST_MS:
        raise BadQuestion("a time between 1m and 31d can be drawn")
    return within


class _Scale:
    """From the answer's times to per cent of the width."""

    def __init__(self, since: str, now: str) -> None:
        self._since, self._now = datetime.fromisoformat(since), datetime.fromisoformat(now)
        self._whole = (self._now - self._since).total_seconds()

    def x(self, at: str | None) -> float:
        """The right edge for no time: it is not over."""
        if at is None:
            return 100.0
        return round(min(100.0, max(0.0, self._of(datetime.fromisoformat(at)))), 2)

    def _of(self, at: datetime) -> float:
        return 100.0 * (at - self._since).total_seconds() / self._whole

    def ticks(self) -> list[tuple[float, str]]:
        """Where each stands, and its time of day."""
        shown = "%H:%M" if self._whole <= 86_400 else "%d %b"
        step = timedelta(seconds=self._whole / _TICKS)
        times = [self._since + step * n for n in range(1, _TICKS)]
        return [(round(self._of(at), 2), at.strftime(shown)) for at in times]


def _drawn(lane: dict[str, Any], scale: _Scale) -> dict[str, Any]:
    host = clean(lane["hostname"], most=80)
    bars, deaths, recovered = [], [], []
    for life in lane["lives"]:
        left, right = scale.x(life["started_at"]), scale.x(life["ended_at"])
        bars.append({"x": left, "width": max(_LEAST, round(right - left, 2)), "state": life["state"]})
        back = sum(one["tasks"] for one in life["recovered"])
        recovered += [{"x": scale.x(one["at"]), **one} for one in life["recovered"]]
        if life["state"] == "lost":
            deaths.append(
                {
                    "x": right,
                    "id": life["id"],
                    "at": life["ended_at"],
                    "hostname": host,
                    "evidence": death(life["evidence"]),
                    "recovered": back,
                }
            )
    return {
        "hostname": host,
        "bars": bars,
        "deaths": deaths,
        "recovered": recovered,
        "said": _said(host, lane, deaths, recovered),
    }


def _said(host: str, lane: dict[str, Any], deaths: list[Any], recovered: list[Any]) -> str:
    """The lane in words, for who does not see it."""
    now = "alive now" if any(life["state"] == "alive" for life in lane["lives"]) else "not alive now"
    lives = "life" if len(lane["lives"]) == 1 else "lives"
    said = [f"{host}: {len(lane['lives'])} {lives}, {now}"]
    said += [f"died at {(death['at'] or '')[11:19]}" for death in deaths]
    if back := sum(one["tasks"] for one in recovered):
        said.append(f"{plural(back, 'task')} of it brought back")
    return ", ".join(said)
