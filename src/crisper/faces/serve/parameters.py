"""What may be asked of the API, each with its limits; what is asked beyond is refused."""

from __future__ import annotations

from typing import Any, NamedTuple

from crisper.engine.filters import (
    LIMIT_MOST,
    LONGEST_ARGUMENT,
    LONGEST_CURSOR,
    LONGEST_GLOB,
    MOST_STARS,
    TASK_STATES,
)
from crisper.engine.moments import AGE, MOMENT
from crisper.faces.cli.events import KINDS
from crisper.faces.serve.asked import LONGEST, LONGEST_TIME, MANY


class Parameter(NamedTuple):
    name: str
    schema: dict[str, Any]
    about: str


_TEXT: dict[str, Any] = {"type": "string", "maxLength": LONGEST}
_STARS = rf"^[^*]*(?:\*+[^*]*){{0,{MOST_STARS}}}$"
_GLOB = {"type": "string", "maxLength": LONGEST_GLOB, "pattern": _STARS}
_CURSOR = {"type": "string", "pattern": "^[A-Za-z0-9_-]*$", "maxLength": LONGEST_CURSOR}
_STATES = {
    "type": "array",
    "maxItems": len(TASK_STATES),
    "items": {"type": "string", "enum": sorted(TASK_STATES)},
}
_AGE = {"type": "string", "maxLength": LONGEST_TIME, "pattern": f"^(?:{AGE})?$"}
_TIME = {"type": "string", "maxLength": LONGEST_TIME, "pattern": f"^(?:{AGE}|{MOMENT})?$"}
_LIMIT = {"type": "integer", "minimum": 1, "maximum": LIMIT_MOST}

_FILTERS = (
    Parameter("name", _GLOB, "The task's whole name; * and ? stand for anything."),
    Parameter("worker", _TEXT, "Where its latest attempt is or was; an incarnation's id does too."),
    Parameter("queue", _TEXT, "The queue that its message came from."),
    Parameter("id", _TEXT, "The task's id, or 6 characters or more that it begins with."),
    Parameter(
        "argument",
        {"type": "string", "maxLength": LONGEST_ARGUMENT},
        "A text that stands in its arguments as they are on record: redacted and shortened.",
    ),
    Parameter("lost_by", _TEXT, "One life of a worker, by its id, lost an attempt of it."),
    Parameter("since", _TIME, "Received then or later: an age, or a moment; without an offset it is UTC."),
    Parameter("until", _TIME, "Received before then."),
    Parameter("older_than", _AGE, "Received so long ago or longer: 90s, 10m, 2h, 1d12h."),
)

PARAMETERS: dict[str, tuple[Parameter, ...]] = {
    "/api/v1/workers": (
        Parameter("all", {"type": "boolean"}, "Also those that ended more than a day ago."),
        Parameter("limit", {**_LIMIT, "default": LIMIT_MOST}, "How many at most."),
    ),
    "/api/v1/tasks": (
        Parameter(
            "state",
            _STATES,
            "May be repeated.",
        ),
        *_FILTERS,
        Parameter("limit", {**_LIMIT, "default": 50}, "How many at most."),
        Parameter("cursor", _CURSOR, "The `next` of an earlier page."),
    ),
    "/api/v1/failures": (
        Parameter("since", {**_AGE, "default": "1d"}, "Received so long ago or later: 90s, 2h, 7d."),
        Parameter("limit", {**_LIMIT, "default": 50}, "The largest so many groups."),
    ),
    "/api/v1/running": (Parameter("limit", {**_LIMIT, "default": 100}, "The oldest so many."),),
    "/api/v1/timeline": (Parameter("since", {**_AGE, "default": "6h"}, "From 1m to 31d."),),
    "/api/v1/selection": (
        Parameter("verb", {"type": "string", "enum": ["recover", "discard", "stop"]}, "What is to be done."),
        Parameter(
            "state",
            _STATES,
            "May be repeated; by default what waits for a person, or for stop what is open.",
        ),
        *_FILTERS,
        Parameter("limit", {**_LIMIT, "maximum": MANY, "default": MANY}, "The oldest so many."),
    ),
    "/api/v1/export/events": (
        Parameter("format", {"type": "string", "enum": ["jsonl", "csv"]}, "JSON Lines by default."),
        Parameter("kind", {"type": "array", "maxItems": len(KINDS), "items": _TEXT}, "May be repeated."),
        Parameter("by", _GLOB, "Written by these; * and ? stand for anything."),
        Parameter("task_id", _TEXT, "Of this task only."),
        Parameter("since", _AGE, "Only what happened so long ago or later."),
    ),
    "/api/v1/events": (
        Parameter("task_id", _TEXT, "Of this task only."),
        Parameter("kind", _TEXT, "Of this kind only: lost, verdict, recovered, …"),
        Parameter("by", _GLOB, "Written by these only; * and ? stand for anything."),
        Parameter("limit", {**_LIMIT, "default": 100}, "How many at most."),
        Parameter("after", _CURSOR, "The `next` of an earlier answer."),
    ),
}


def names(path: str) -> tuple[str, ...]:
    return tuple(parameter.name for parameter in PARAMETERS.get(path, ()))
