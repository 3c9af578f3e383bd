"""What runs now, the oldest first, against what its name usually takes."""

from __future__ import annotations

import functools
from typing import Any

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from crisper.engine import usual
from crisper.faces.cli.text import seconds
from crisper.faces.serve import asked, parameters
from crisper.faces.serve.access import Needs
from crisper.faces.serve.doors import Door
from crisper.faces.serve.registry import SHOWN_SECONDS, Registry
from crisper.faces.serve.render import page, part

PAGE = 100
#: What is usual changes slowly, and is reckoned from thousands of rows.
USUAL_SECONDS = 60.0


class Present:
    def __init__(self, registry: Registry) -> None:
        self._registry, self._typed = registry, registry.place.typed

    def doors(self) -> list[Door]:
        look = Needs.VIEWER
        return [
            Door("GET", "/running", look, self.running, "What runs now, the oldest first."),
            Door(
                "GET", "/api/v1/running", look, self.answer, "What runs now, and how long it usually takes."
            ),
        ]

    def answer(self, request: Request) -> JSONResponse:
        asked.only(request, parameters.names("/api/v1/running"))
        limit = asked.number(request, "limit", PAGE)
        ask = functools.partial(self._present, limit)
        return JSONResponse(
            {"running": self._registry.shown.ask(("running", limit), ask, seconds=SHOWN_SECONDS)}
        )

    def running(self, request: Request) -> Response:
        asked.only(request, ())
        shown = self._registry.shown.ask("running", self._drawn, seconds=SHOWN_SECONDS)
        return page(request.scope, "running.html", shown=shown, line=f"{self._typed} top --once")

    def _drawn(self) -> Markup:
        rows = self._present(PAGE)
        return part(
            "running.html",
            rows=[{**row, "told": _told(row)} for row in rows],
            late=sum(row["late"] is True for row in rows),
            full=len(rows) == PAGE,
            fewest=usual.FEWEST,
        )

    def _present(self, limit: int) -> list[dict[str, Any]]:
        reading, slow = self._registry.reading, self._registry.slow
        known = slow.ask("usual", functools.partial(usual.usual, reading), seconds=USUAL_SECONDS)
        return usual.present(reading, known, limit=limit)


def _told(row: dict[str, Any]) -> str:
    known = row["usual"]
    if known is None:
        return "not known"
    return f"{seconds(known['median'])}; 19 of 20 within {seconds(known['p95'])}"
