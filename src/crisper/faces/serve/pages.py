"""The dashboard. Each page has an address, a state for when there is nothing, and its line on a terminal."""

from __future__ import annotations

import json
import shlex
from typing import Any
from urllib.parse import quote, urlencode

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from crisper.engine import control, deaths, looking
from crisper.engine.control import Outcome
from crisper.engine.filters import TASK_STATES, Filters
from crisper.faces.cli.status import advice
from crisper.faces.cli.story import death, story, told
from crisper.faces.cli.text import clean, plural
from crisper.faces.cli.workers import ailment
from crisper.faces.serve import api as answers
from crisper.faces.serve import asked, parameters
from crisper.faces.serve.access import Needs
from crisper.faces.serve.doors import Door
from crisper.faces.serve.many import ways
from crisper.faces.serve.registry import SHOWN_SECONDS, Registry
from crisper.faces.serve.render import page, part

#: Tasks of one kind on the triage page, and on one page of tasks.
FEW, PAGE = 20, 50
#: Deaths on the triage page; the timeline has all of them.
DEATHS = 10
#: Lives of workers on one page: those that live, then the newest.
LIVES = 300
_PREVIEW_MOST = 2000
#: A story's page shows the newest so many entries; the API has all that are told.
_ENTRIES = 300

_SECTIONS = (
    ("held", "Needs a decision", "No task waits for somebody to decide."),
    ("recovering", "Recovering", "Nothing is being brought back now."),
    ("quarantined", "Quarantined", "No task was lost more often than its loss budget allows."),
)
_ACTIONS = (
    ("recover", "Run it again", "Its kept message is sent again, as its next attempt.", control.may_recover),
    (
        "discard",
        "Close it for good",
        "Nothing runs for it any more. It can be undone.",
        control.may_discard,
    ),
    (
        "stop",
        "Stop it",
        "It ends as revoked, and its callers are told.",
        control.may_stop,
    ),
)


class Pages:
    def __init__(self, registry: Registry) -> None:
        self._registry, self._survey = registry, registry.survey
        self._typed = registry.place.typed

    def doors(self) -> list[Door]:
        look = Needs.VIEWER
        return [
            Door("GET", "/", look, self.triage, "What needs somebody."),
            Door("GET", "/workers", look, self.workers, "Workers."),
            Door("GET", "/tasks", look, self.tasks, "Tasks, filtered."),
            Door("GET", "/task", look, self.task, "One task's whole story."),
            Door("GET", "/search", look, self.search, "A task by its id, or tasks by name."),
        ]

    def triage(self, request: Request) -> Response:
        asked.only(request, ())
        shown = self._registry.shown.ask("triage", self._triage, seconds=SHOWN_SECONDS)
        return page(request.scope, "triage.html", shown=shown, typed=self._typed)

    def _triage(self) -> Markup:
        status, reading = self._registry.status(), self._registry.reading
        with reading.snapshot():
            lost = deaths.newest(reading, DEATHS)
            became = deaths.became(reading, [one["id"] for one in lost])
            sections = [self._section(*one) for one in _SECTIONS]
        workers, attempts, tasks = status["workers"], status["attempts"], status["tasks"]
        return part(
            "triage.html",
            advice=advice(status, self._typed),
            counts=(
                ("workers alive", workers["alive"] + workers["suspect"]),
                ("running", attempts["running"]),
                ("claimed", attempts["claimed"]),
                ("lost in 24 h", tasks["lost_24h"]),
                ("recovered in 24 h", tasks["recovered_24h"]),
            ),
            deaths=[
                {**one, "told": death(one["evidence"]), "became": became.get(one["id"], {})} for one in lost
            ],
            more_deaths=len(lost) == DEATHS,
            most_held=deaths.MOST_HELD,
            sections=sections,
            typed=self._typed,
        )

    def _section(self, state: str, title: str, empty: str) -> dict[str, Any]:
        answer = self._survey.tasks(Filters((state,)), limit=FEW)
        return {
            "state": state,
            "title": title,
            "empty": empty,
            "tasks": answer["tasks"],
            "more": answer["next"] is not None,
        }

    def workers(self, request: Request) -> Response:
        asked.only(request, ("all",))
        everything = asked.flag(request, "all")

        def draw() -> Markup:
            lives = self._survey.workers(everything=everything, limit=LIVES + 1)["workers"]
            workers = [{**one, "notes": _notes(one)} for one in lives[:LIVES]]
            return part("workers.html", workers=workers, more=len(lives) > LIVES, typed=self._typed)

        shown = self._registry.shown.ask(("workers", everything), draw, seconds=SHOWN_SECONDS)
        return page(request.scope, "workers.html", shown=shown, everything=everything, typed=self._typed)

    def tasks(self, request: Request) -> Response:
        asked.only(request, parameters.names("/api/v1/tasks"))
        filters, cursor = asked.filters(request), request.query_params.get("cursor") or None
        limit = asked.number(request, "limit", PAGE, PAGE * 4)
        answer = self._survey.tasks(filters, limit=limit, cursor=cursor)
        given = [(k, v) for k, v in request.query_params.multi_items() if v and k != "cursor"]
        following = urlencode([*given, ("cursor", answer["next"])]) if answer["next"] else None
        return page(
            request.scope,
            "tasks.html",
            tasks=answer["tasks"],
            filters=filters,
            given=dict.fromkeys(("id", "argument", "since", "until", "older_than"), "") | dict(given),
            looked_back_to=answer["looked_back_to"],
            looked_at_most=looking.MOST,
            states=sorted(TASK_STATES),
            asked=filters != Filters() or cursor is not None,
            next=following,
            ways=ways(filters, given),
            line=f"{self._typed} tasks{_options(given)}",
        )

    def task(self, request: Request) -> Response:
        asked.only(request, ("id",))
        id = request.query_params.get("id", "")
        with self._registry.reading.snapshot():
            shown = answers.story(self._registry, id, answers.who(request))
            standing = self._survey.standing(id)
        attempts = shown.get("attempts")
        saw = {"attempt": attempts[-1]["number"], "state": shown["state"]} if attempts else None
        return page(
            request.scope,
            "task.html",
            task=shown,
            args=_preview(shown["args_preview"]),
            kwargs=_preview(shown["kwargs_preview"]),
            entries=story(shown)[-_ENTRIES:] if attempts else [],
            verdicts=[{**one, "told": told(one["evidence"])} for one in shown.get("verdicts", ())],
            saw=saw,
            actions=[self._action(id, standing, *one) for one in _ACTIONS] if standing and saw else [],
            line=f"{self._typed} show {clean(shlex.quote(id), most=800)}",
        )

    def _action(
        self, id: str, standing: dict[str, Any], verb: str, title: str, about: str, may: Any
    ) -> dict[str, Any]:
        outcome, why = may(standing)
        return {
            "verb": verb,
            "title": title,
            "about": about,
            "why_not": None if outcome is Outcome.DONE else why,
            "to_know": control.to_know(verb, standing),
            "url": f"/api/v1/{verb}/{quote(id, safe='', errors='surrogatepass')}",
            "line": f"{self._typed} {verb} {clean(shlex.quote(id), most=800)}",
        }

    def search(self, request: Request) -> Response:
        """To the one task of that id, or that it begins; else to those of that name."""
        asked.only(request, ("q",))
        wanted = (asked.text(request, "q") or "").strip()
        if not wanted:
            return RedirectResponse("/tasks", 303)
        known = self._survey.standing(wanted) or self._survey.published(wanted)
        found = [wanted] if known else self._survey.ids_like(wanted)
        if len(found) == 1:
            return RedirectResponse(f"/task?{urlencode({'id': found[0]})}", 303)
        name = wanted if "*" in wanted or "?" in wanted else f"*{wanted}*"
        return RedirectResponse(f"/tasks?{urlencode({'name': name})}", 303)


def _notes(worker: dict[str, Any]) -> list[str]:
    notes = [f"lost: {death(worker['evidence'])}"] if worker["state"] == "lost" else []
    if worker["state"] == "suspect":
        notes.append("has not renewed its lease for half of it; nobody is judged by that")
    notes += [ailment(one) for one in worker["ails"]]
    if worker["journal_bytes"]:
        notes.append(f"replays its journal: {worker['journal_bytes']:,} bytes are not on record yet")
    if worker["errors"]:
        notes.append(f"has counted {plural(worker['errors'], 'error')} in Crisper's own code: see its log")
    return notes


def _options(given: list[tuple[str, str]]) -> str:
    words = [f" --{name.replace('_', '-')} {clean(shlex.quote(value), most=1100)}" for name, value in given]
    return "".join(words)


def _preview(value: object) -> str:
    return clean(json.dumps(value, ensure_ascii=False), most=_PREVIEW_MOST)
