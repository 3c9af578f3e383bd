"""The audit trail: who decided what, and why; as a page, and as a file to keep."""

from __future__ import annotations

import csv
import io
import itertools
import json
import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from crisper.engine import trail
from crisper.engine.moments import age_ms
from crisper.engine.trail import Wanted
from crisper.errors import BadQuestion
from crisper.faces.cli.events import KINDS
from crisper.faces.cli.story import of_event
from crisper.faces.cli.text import clean
from crisper.faces.serve import asked
from crisper.faces.serve.access import Needs
from crisper.faces.serve.doors import Door
from crisper.faces.serve.registry import Registry
from crisper.faces.serve.render import page

PAGE = 50
EXPORT = "/api/v1/export/events"
#: What somebody decided, be it a person, a courier or a sweeper.
DECISIONS = ("verdict", "stop", "worker_lost", "pruned")
EVERYTHING = "everything"
_COLUMNS = ("id", "at", "kind", "task_id", "attempt", "worker", "actor", "verdict", "reason", "data")
#: What a spreadsheet takes for a formula.
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")


class _Form(NamedTuple):
    media_type: str
    write: Any  # pages of events to text


class Audit:
    def __init__(self, registry: Registry) -> None:
        self._registry, self._typed = registry, registry.place.typed

    def doors(self) -> list[Door]:
        look = Needs.VIEWER
        return [
            Door("GET", "/audit", look, self.audit, "Who decided what, and why."),
            Door("GET", EXPORT, look, self.export, "The audit trail as a file: CSV or JSON Lines."),
        ]

    def audit(self, request: Request) -> Response:
        asked.only(request, ("kind", "by", "task_id", "since", "before"))
        kind = asked.text(request, "kind")
        wanted = _wanted(request, DECISIONS if kind is None else () if kind == EVERYTHING else (kind,))
        before = request.query_params.get("before") or None
        answer = trail.newest(self._registry.reading, wanted, limit=PAGE, before=before)
        given = [(k, v) for k, v in request.query_params.multi_items() if v and k != "before"]
        kept = [*(("kind", one) for one in wanted.kinds), *((k, v) for k, v in given if k != "kind")]
        return page(
            request.scope,
            "audit.html",
            events=[{**one, "told": of_event(one)} for one in reversed(answer["events"])],
            older=urlencode([*given, ("before", answer["older"])]) if answer["older"] else None,
            kinds=KINDS,
            everything=EVERYTHING,
            kind=kind or "",
            asked={"by": "", "task_id": "", "since": "", **dict(given)},
            filtered=bool(given) or before is not None,
            exports=[(title, f"{EXPORT}?{urlencode([*kept, ('format', form)])}") for form, title in _TITLES],
            line=f"{self._typed} events{_options(wanted, given)}",
        )

    def export(self, request: Request) -> Response:
        asked.only(request, ("format", "kind", "by", "task_id", "since"), repeated=("kind",))
        form = request.query_params.get("format") or "jsonl"
        if form not in _FORMS:
            raise BadQuestion(f"format is one of {', '.join(_FORMS)}")
        kinds = tuple(kind for kind in request.query_params.getlist("kind") if kind)
        if len(kinds) > len(KINDS):
            raise BadQuestion("there are not so many kinds")
        wanted = _wanted(request, tuple(kind[: asked.LONGEST] for kind in kinds))
        pages = trail.whole(self._registry.reading, wanted)
        first = next(pages)  # a registry that is away is an error, not an empty file
        media_type, write = _FORMS[form]
        headers = {"Content-Disposition": f'attachment; filename="crisper-audit.{form}"'}
        return StreamingResponse(write(first, pages), headers=headers, media_type=media_type)


def _wanted(request: Request, kinds: tuple[str, ...]) -> Wanted:
    since = asked.text(request, "since", 40)
    return Wanted(
        asked.text(request, "task_id"),
        kinds,
        asked.text(request, "by", 500),
        None if since is None else age_ms(since),
    )


def _options(wanted: Wanted, given: list[tuple[str, str]]) -> str:
    words = [("kind", kind) for kind in wanted.kinds]
    words += [("task" if k == "task_id" else k, v) for k, v in given if k != "kind"]
    return "".join(f" --{name} {clean(shlex.quote(value), most=1100)}" for name, value in words)


Events = list[dict[str, Any]]


def _json_lines(first: Events, rest: Iterator[Events]) -> Iterator[str]:
    for events in itertools.chain([first], rest):
        yield "".join(json.dumps(event) + "\n" for event in events)


def _csv(first: Events, rest: Iterator[Events]) -> Iterator[str]:
    yield _rows([_COLUMNS])
    for events in itertools.chain([first], rest):
        yield _rows(map(_row, events))


def _rows(rows: Any) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _row(event: dict[str, Any]) -> list[object]:
    data = event["data"] if isinstance(event["data"], dict) else {}
    told = {**event, "verdict": data.get("verdict"), "reason": data.get("reason")}
    return [_cell(json.dumps(told[name]) if name == "data" else told[name]) for name in _COLUMNS]


def _cell(value: object) -> object:
    """Text that a spreadsheet would reckon is text: a task's name comes from anybody."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULAS) else value


_FORMS = {
    "csv": _Form("text/csv; charset=utf-8", _csv),
    "jsonl": _Form("application/x-ndjson", _json_lines),
}
_TITLES = (("csv", "CSV"), ("jsonl", "JSON Lines"))
