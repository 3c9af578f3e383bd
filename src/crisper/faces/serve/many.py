"""Many tasks at once: looked at first, then decided about, each as it was seen."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from crisper.engine import control
from crisper.engine.control import Outcome
from crisper.engine.filters import Filters
from crisper.engine.selection import Selection, selection
from crisper.errors import BadQuestion
from crisper.faces.cli import bulk
from crisper.faces.cli.text import clean, plural
from crisper.faces.serve import asked, parameters
from crisper.faces.serve.access import Needs
from crisper.faces.serve.api import answer_of, who
from crisper.faces.serve.doors import Door
from crisper.faces.serve.pace import Pace
from crisper.faces.serve.registry import VERBS, Registry, signature
from crisper.faces.serve.render import page

#: One decision about many weighs as much as so many about one.
WEIGHT = 10
#: Beyond that many it is told that there are at least so many.
COUNTED = 300
SELECTION = "/api/v1/selection"
_FILTERS = ("name", "worker", "queue", "id", "argument", "lost_by", "since", "until", "older_than")
_TITLES = {"recover": "Run again", "discard": "Close for good", "stop": "Stop"}
_MAY = {"recover": control.may_recover, "discard": control.may_discard, "stop": control.may_stop}
_MORE = f"{asked.MANY} at once go from here, more on the command line"


class Many:
    def __init__(self, registry: Registry, pace: Pace) -> None:
        self._registry, self._pace, self._typed = registry, pace, registry.place.typed

    def doors(self) -> list[Door]:
        look = Needs.VIEWER
        return [
            Door("GET", "/many", look, self.look, "What would be done to many at once."),
            Door("GET", SELECTION, look, self.selection, "Which tasks a decision about many would take."),
            *(self._door_to(verb) for verb in VERBS),
        ]

    def selection(self, request: Request) -> JSONResponse:
        asked.only(request, parameters.names(SELECTION))
        verb, wanted = self._asked(request)
        if too_wide := _too_wide(verb, wanted):
            raise BadQuestion(too_wide)
        chosen = self._chosen(verb, wanted)
        return JSONResponse(
            {
                "tasks": [_seen(one) for one in chosen.tasks],
                "matching": chosen.matching,
                "warnings": list(bulk.warnings(verb, chosen, more=_MORE)),
            }
        )

    def look(self, request: Request) -> Response:
        asked.only(request, [one for one in parameters.names(SELECTION) if one != "limit"])
        verb, wanted = self._asked(request)
        too_wide = _too_wide(verb, wanted)
        chosen = Selection([], 0) if too_wide else self._chosen(verb, wanted)
        scope = bulk.SCOPES[verb]
        return page(
            request.scope,
            "many.html",
            verb=verb,
            verbs=[(one, _TITLES[one]) for one in VERBS],
            title=_TITLES[verb],
            button=f"{_TITLES[verb]}: {plural(len(chosen.tasks), 'task')}",
            states=[*scope.states, *scope.others],
            usual=", ".join(scope.states),
            states_asked=wanted.filters.states,
            given=dict.fromkeys(_FILTERS, "")
            | {k: v for k, v in request.query_params.items() if k in _FILTERS},
            too_wide=too_wide,
            tasks=chosen.tasks,
            warnings=list(bulk.warnings(verb, chosen, more=_MORE)),
            kinds=Counter((one.name, one.state) for one in chosen.tasks).most_common(),
            seen=json.dumps([_seen(one) for one in chosen.tasks]),
            line=f"{self._typed} {verb} --all{_options(request)} --dry-run",
        )

    def _asked(self, request: Request) -> tuple[str, bulk.Asked]:
        verb = request.query_params.get("verb") or "recover"
        if verb not in VERBS:
            raise BadQuestion(f"verb is one of {', '.join(VERBS)}")
        scope = bulk.SCOPES[verb]
        filters = asked.filters(request)
        if not _takes(scope, filters):
            raise BadQuestion(f"{verb} takes tasks that are {', '.join((*scope.states, *scope.others))}")
        filters = replace(filters, states=tuple(dict.fromkeys(filters.states)))
        return verb, bulk.Asked(True, filters, asked.number(request, "limit", asked.MANY, asked.MANY))

    def _chosen(self, verb: str, wanted: bulk.Asked) -> Selection:
        asked_for = bulk.question(verb, wanted)._replace(counted=COUNTED)
        return selection(self._registry.reading, asked_for)

    def _door_to(self, verb: str) -> Door:
        async def decide(request: Request) -> JSONResponse:
            asked.only(request, ())
            told = asked.Decisions(await asked.body(request, asked.LARGEST_BODY_OF_MANY))
            self._pace.one_more(who(request).name, WEIGHT)
            by = signature(who(request).name)
            done = await run_in_threadpool(self._registry.decide_many, verb, told.seen, told.reason, by=by)
            outcomes = {one.outcome for one in done}
            left = len(told.seen) - len(done)
            good = outcomes <= {Outcome.DONE, Outcome.UNREACHABLE} and not left
            answer = {"tasks": [answer_of(one) for one in done], "left": left, "said": summary(done, left)}
            return JSONResponse(answer, 200 if good and Outcome.UNREACHABLE not in outcomes else 207)

        about = {"recover": "Run many again.", "discard": "Close many for good.", "stop": "Stop many."}
        return Door("POST", f"/api/v1/{verb}", Needs.OPERATOR, decide, about[verb])


def ways(filters: Filters, given: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """What may be done to many of the tasks that are filtered so: titles and addresses."""
    if filters == Filters():
        return []
    kept = [(k, v) for k, v in given if k in ("state", *_FILTERS)]
    verbs = [verb for verb in VERBS if _takes(bulk.SCOPES[verb], filters)]
    return [(_TITLES[verb], f"/many?{urlencode([('verb', verb), *kept])}") for verb in verbs]


def _takes(scope: bulk.Scope, filters: Filters) -> bool:
    return set(filters.states) <= {*scope.states, *scope.others}


def summary(done: list[control.Done], left: int) -> str:
    """What became of them, in one sentence: how many of each, the most first."""
    words = Counter(f"{clean(one.reason, most=200)}" or str(one.outcome) for one in done)
    told = [f"{count} of {len(done) + left}: {word}" for word, count in words.most_common()]
    if left:
        told.append(f"what became of {left} is not known: look again")
    return "; ".join(told)


def _too_wide(verb: str, wanted: bulk.Asked) -> str | None:
    if bulk.SCOPES[verb].widest or wanted.narrowed:
        return None
    return f"{verb} every task there is? Narrow it by name, queue or state, or say that the name is *"


def _seen(one: Any) -> dict[str, Any]:
    return {"task_id": one.task_id, "attempt": one.attempt, "state": one.state}


def _options(request: Request) -> str:
    words = [(k, v) for k, v in request.query_params.multi_items() if v and k in ("state", *_FILTERS)]
    return "".join(
        f" --{name.replace('_', '-')} {clean(shlex.quote(value), most=1100)}" for name, value in words
    )
