"""What goes wrong, in groups; and how the queues stand."""

from __future__ import annotations

import functools
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from crisper.core.states import RecoveryState, State, VerdictKind
from crisper.engine import failures
from crisper.engine.moments import age_ms
from crisper.faces.cli import queues as cli_queues
from crisper.faces.cli.failures import left_out
from crisper.faces.serve import asked, parameters
from crisper.faces.serve.access import Needs
from crisper.faces.serve.doors import Door
from crisper.faces.serve.registry import SHOWN_SECONDS, Registry
from crisper.faces.serve.render import page, part

GROUPS = 100
SINCE = "1d"
#: What a page offers; any other age may stand in its address.
PERIODS = ("1h", "1d", "7d")


class Troubles:
    def __init__(self, registry: Registry) -> None:
        self._registry, self._typed = registry, registry.place.typed

    def doors(self) -> list[Door]:
        look = Needs.VIEWER
        return [
            Door("GET", "/failures", look, self.failures, "Failures, in groups."),
            Door("GET", "/queues", look, self.queues, "How the queues stand."),
            Door("GET", "/api/v1/failures", look, self.grouped, "Failures by name, state and reason."),
            Door("GET", "/api/v1/queues", look, self.depths, "What waits in each queue, and who takes it."),
        ]

    def grouped(self, request: Request) -> JSONResponse:
        asked.only(request, parameters.names("/api/v1/failures"))
        within = age_ms(asked.text(request, "since", 40) or SINCE)
        limit = asked.number(request, "limit", 50)
        ask = functools.partial(failures.failures, self._registry.reading, since_ms=within, limit=limit)
        return JSONResponse(self._registry.shown.ask(("failures", within, limit), ask, seconds=SHOWN_SECONDS))

    def failures(self, request: Request) -> Response:
        asked.only(request, ("since",))
        since = asked.text(request, "since", 40) or SINCE
        within = age_ms(since)  # what makes no sense is refused before anybody is asked
        draw = functools.partial(self._drawn, within)
        return page(
            request.scope,
            "failures.html",
            shown=self._registry.shown.ask(("failures", within), draw, seconds=SHOWN_SECONDS),
            since=since,
            periods=PERIODS,
            line=f"{self._typed} failures --since {since}",
        )

    def _drawn(self, within: int) -> Markup:
        answer = failures.failures(self._registry.reading, since_ms=within, limit=GROUPS)
        groups = [{**one, "tasks": _tasks_of(one)} for one in answer["groups"]]
        return part("failures.html", groups=groups, notes=left_out(answer, GROUPS))

    def depths(self, request: Request) -> JSONResponse:
        asked.only(request, ())
        return JSONResponse(self._registry.queues())

    def queues(self, request: Request) -> Response:
        asked.only(request, ())
        shown = self._registry.shown.ask("queues", self._depths, seconds=SHOWN_SECONDS)
        return page(request.scope, "queues.html", shown=shown, line=f"{self._typed} queues")

    def _depths(self) -> Markup:
        answer = self._registry.queues()
        return part(
            "queues.html",
            queues=answer["queues"],
            advice=cli_queues.advice(answer),
            asks=self._registry.place.app is not None,
            nothing=cli_queues.NOTHING,
        )


def _tasks_of(group: dict[str, Any]) -> str:
    """Those of the name that stand as these do, where that can be said of what was lost at all."""
    told = {"name": group["name"][:500]}
    state = _STANDS.get(group["verdict"]) if group["state"] == State.LOST else group["state"]
    return urlencode(told if state is None else {**told, "state": state}, errors="backslashreplace")


_STANDS = {
    VerdictKind.QUARANTINE: RecoveryState.QUARANTINED,
    VerdictKind.HOLD: RecoveryState.HELD,
    VerdictKind.FAIL: State.FAILED,
    VerdictKind.DISCARD: "discarded",
}
