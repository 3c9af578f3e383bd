"""What goes wrong, in groups; and how the queues stand."""

from __future__ import annotations

import functools
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from crisper.core.states import (
    BRINGS_BACK,
    VERDICT_MOVES,
    WAITS_FOR_A_PERSON,
    RecoveryState,
    State,
    VerdictKind,
    task_state,
)
from crisper.engine import failures
from crisper.engine.filters import LONGEST_GLOB
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
_LONGEST_NAME = LONGEST_GLOB - 1


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
        draw = functools.partial(self._drawn, within, since)
        return page(
            request.scope,
            "failures.html",
            shown=self._registry.shown.ask(("failures", within), draw, seconds=SHOWN_SECONDS),
            since=since,
            periods=PERIODS,
            line=f"{self._typed} failures --since {since}",
        )

    def _drawn(self, within: int, since: str) -> Markup:
        answer = failures.failures(self._registry.reading, since_ms=within, limit=GROUPS)
        groups = [{**one, "tasks": _tasks_of(one, since)} for one in answer["groups"]]
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


def _tasks_of(group: dict[str, Any], since: str) -> str | None:
    """Those of the name that stand as these do; None where no filter tells them from others: what was brought
    back may stand anyhow."""
    state = group["state"]
    if state == State.LOST:
        verdict = group["verdict"] and VerdictKind(group["verdict"])
        if verdict in BRINGS_BACK:
            return None
        state = task_state(State.LOST, _ends_in(verdict), verdict)
    told = {"name": _whole(group["name"]), "state": state, "since": since}
    return urlencode(told, errors="backslashreplace")


def _ends_in(verdict: VerdictKind | None) -> RecoveryState:
    if verdict is None:
        return RecoveryState.PENDING
    state = VERDICT_MOVES[verdict]
    return state if state in WAITS_FOR_A_PERSON else RecoveryState.DONE


def _whole(name: str) -> str:
    """The name as a filter takes it."""
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}*"
