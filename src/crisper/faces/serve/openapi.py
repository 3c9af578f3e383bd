"""The API's description, made of the doors that there are and the parameters that they heed."""

from __future__ import annotations

from typing import Any, NamedTuple

from crisper import __version__
from crisper.core.states import VerdictKind
from crisper.engine.control import Outcome
from crisper.engine.filters import LIMIT_MOST, LONGEST_ARGUMENT, TASK_STATES
from crisper.engine.moments import AGE, MOMENT
from crisper.faces.serve.access import Needs
from crisper.faces.serve.asked import LONGEST, LONGEST_REASON, LONGEST_TIME, MANY
from crisper.faces.serve.doors import Door


class Parameter(NamedTuple):
    name: str
    schema: dict[str, Any]
    about: str


_TEXT: dict[str, Any] = {"type": "string", "maxLength": LONGEST}
_AGE = {"type": "string", "maxLength": LONGEST_TIME, "pattern": f"^(?:{AGE})?$"}
_TIME = {"type": "string", "maxLength": LONGEST_TIME, "pattern": f"^(?:{AGE}|{MOMENT})?$"}
_LIMIT = {"type": "integer", "minimum": 1, "maximum": LIMIT_MOST}

PARAMETERS: dict[str, tuple[Parameter, ...]] = {
    "/api/v1/workers": (
        Parameter("all", {"type": "boolean"}, "Also those that ended more than a day ago."),
        Parameter("limit", {**_LIMIT, "default": LIMIT_MOST}, "How many at most."),
    ),
    "/api/v1/tasks": (
        Parameter(
            "state",
            {"type": "array", "items": {"type": "string", "enum": sorted(TASK_STATES)}},
            "May be repeated.",
        ),
        Parameter("name", _TEXT, "The task's whole name; * and ? stand for anything."),
        Parameter("worker", _TEXT, "Where its latest attempt is or was; an incarnation's id does too."),
        Parameter("queue", _TEXT, "The queue that its message came from."),
        Parameter("id", _TEXT, "The task's id, or 6 characters or more that it begins with."),
        Parameter(
            "argument",
            {"type": "string", "maxLength": LONGEST_ARGUMENT},
            "A text that stands in its arguments as they are on record: redacted and shortened.",
        ),
        Parameter(
            "since", _TIME, "Received then or later: an age, or a moment; without an offset it is UTC."
        ),
        Parameter("until", _TIME, "Received before then."),
        Parameter("older_than", _AGE, "Received so long ago or longer: 90s, 10m, 2h, 1d12h."),
        Parameter("limit", {**_LIMIT, "default": 50}, "How many at most."),
        Parameter("cursor", {"type": "string"}, "The `next` of an earlier page."),
    ),
    "/api/v1/failures": (
        Parameter("since", {**_TEXT, "default": "1d"}, "Received so long ago or later: 90s, 2h, 7d."),
        Parameter("limit", {**_LIMIT, "default": 50}, "The largest so many groups."),
    ),
    "/api/v1/running": (Parameter("limit", {**_LIMIT, "default": 100}, "The oldest so many."),),
    "/api/v1/timeline": (Parameter("since", {**_TEXT, "default": "6h"}, "From 1m to 31d."),),
    "/api/v1/selection": (
        Parameter("verb", {"type": "string", "enum": ["recover", "discard", "stop"]}, "What is to be done."),
        Parameter(
            "state",
            {"type": "array", "items": {"type": "string", "enum": sorted(TASK_STATES)}},
            "May be repeated; by default what waits for a person, or for stop what is open.",
        ),
        Parameter("name", _TEXT, "The task's whole name; * and ? stand for anything."),
        Parameter("queue", _TEXT, "The queue that its message came from."),
        Parameter("limit", {**_LIMIT, "maximum": MANY, "default": MANY}, "The oldest so many."),
    ),
    "/api/v1/export/events": (
        Parameter("format", {"type": "string", "enum": ["jsonl", "csv"]}, "JSON Lines by default."),
        Parameter("kind", {"type": "array", "items": _TEXT}, "May be repeated."),
        Parameter("by", _TEXT, "Written by these; * and ? stand for anything."),
        Parameter("task_id", _TEXT, "Of this task only."),
        Parameter("since", _TEXT, "Only what happened so long ago or later."),
    ),
    "/api/v1/events": (
        Parameter("task_id", _TEXT, "Of this task only."),
        Parameter("kind", _TEXT, "Of this kind only: lost, verdict, recovered, …"),
        Parameter("by", _TEXT, "Written by these only; * and ? stand for anything."),
        Parameter("limit", {**_LIMIT, "default": 100}, "How many at most."),
        Parameter("after", {"type": "string"}, "The `next` of an earlier answer."),
    ),
}

_ANSWERS = {
    "/api/v1/status": "status",
    "/api/v1/workers": "workers",
    "/api/v1/tasks": "tasks",
    "/api/v1/tasks/{task_id:path}": "show",
    "/api/v1/failures": "failures",
    "/api/v1/queues": "queues",
}


def names(path: str) -> tuple[str, ...]:
    return tuple(parameter.name for parameter in PARAMETERS.get(path, ()))


def document(doors: tuple[Door, ...]) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for door in doors:
        if door.path.startswith("/api/"):
            shown = door.path.replace(":path", "")
            paths.setdefault(shown, {})[door.method.lower()] = _operation(door)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Crisper",
            "version": __version__,
            "description": "Answers have the shapes of `crisper … --json` (docs/reference/json.md).",
        },
        "paths": paths,
        "components": {"securitySchemes": _SCHEMES, "schemas": _SCHEMAS},
    }


def _operation(door: Door) -> dict[str, Any]:
    role = "operator" if door.needs is Needs.OPERATOR else "viewer"
    operation: dict[str, Any] = {
        "summary": door.about,
        "operationId": _operation_id(door),
        "parameters": [_parameter(one) for one in PARAMETERS.get(door.path, ())],
        "responses": _responses(door),
        "security": [] if door.needs is Needs.NOTHING else [{"session": []}, {"account": []}],
        "x-crisper-role": None if door.needs is Needs.NOTHING else role,
    }
    if "{task_id:path}" in door.path:
        path = {"name": "task_id", "in": "path", "required": True, "schema": {"type": "string"}}
        operation["parameters"].append({**path, "description": "Whole, and URL-encoded."})
    if door.needs is Needs.OPERATOR:
        one = "{task_id:path}" in door.path
        operation["requestBody"] = {"required": True, "content": _json("Decision" if one else "Decisions")}
    return operation


def _operation_id(door: Door) -> str:
    words = door.path.replace("{task_id:path}", "one").replace(".", "/").strip("/").split("/")
    return "_".join([door.method.lower(), *words[2:]])


def _parameter(one: Parameter) -> dict[str, Any]:
    return {"name": one.name, "in": "query", "description": one.about, "schema": one.schema}


def _responses(door: Door) -> dict[str, Any]:
    like = _ANSWERS.get(door.path)
    shape = f"The shape of `crisper {like} --json`." if like else door.about
    error = {"content": _json("Error")}
    responses: dict[str, Any] = {
        "200": {"description": shape},
        "400": {"description": "A parameter makes no sense.", **error},
        "401": {"description": "Nobody has signed in.", **error},
        "503": {"description": "The registry cannot be reached, or is not ready.", **error},
    }
    if door.needs is Needs.OPERATOR:
        responses["200"] = {"description": "Done.", "content": _json("Decided")}
        if "{task_id:path}" not in door.path:
            responses["207"] = {"description": "Not all of them; see each.", "content": _json("Decided")}
            return {**responses, "403": {"description": "Not an operator, or from another site.", **error}}
        responses["202"] = {
            "description": "Decided; a live worker carries it out.",
            "content": _json("Decided"),
        }
        responses["403"] = {"description": "Not an operator, or from another site.", **error}
        responses["404"] = {"description": "No such task is on record.", "content": _json("Decided")}
        responses["409"] = {
            "description": "It has moved since it was seen, or that cannot be done to it.",
            "content": _json("Decided"),
        }
        responses["429"] = {"description": "Too many decisions in a minute.", **error}
    return responses


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


_SCHEMES = {
    "session": {"type": "apiKey", "in": "cookie", "name": "crisper_session"},
    "account": {"type": "http", "scheme": "basic"},
}
_SCHEMAS: dict[str, Any] = {
    "Decision": {
        "type": "object",
        "required": ["attempt", "state"],
        "additionalProperties": False,
        "properties": {
            "attempt": {
                "type": "integer",
                "minimum": 1,
                "description": "The latest attempt, as it was seen.",
            },
            "state": {"type": "string", "enum": sorted(TASK_STATES)},
            "reason": {"type": "string", "maxLength": LONGEST_REASON},
        },
    },
    "Decisions": {
        "type": "object",
        "required": ["tasks"],
        "additionalProperties": False,
        "properties": {
            "tasks": {
                "type": "array",
                "minItems": 1,
                "maxItems": MANY,
                "items": {
                    "type": "object",
                    "required": ["task_id", "attempt", "state"],
                    "additionalProperties": False,
                    "properties": {
                        "task_id": {"type": "string"},
                        "attempt": {"type": "integer", "minimum": 1},
                        "state": {"type": "string", "enum": sorted(TASK_STATES)},
                    },
                },
            },
            "reason": {"type": "string", "maxLength": LONGEST_REASON},
        },
    },
    "Decided": {
        "type": "object",
        "properties": {
            "left": {"type": "integer", "description": "Of many: what became of so many is not known."},
            "said": {"type": "string", "description": "Of many: what became of them, in a sentence."},
            "tasks": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "task_id": {"type": "string"},
                        "outcome": {"type": "string", "enum": [str(outcome) for outcome in Outcome]},
                        "reason": {"type": ["string", "null"]},
                        "attempt": {"type": ["integer", "null"]},
                    },
                },
            },
        },
    },
    "Error": {
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "properties": {"kind": {"type": "string"}, "message": {"type": "string"}},
            }
        },
    },
    "Verdict": {"type": "string", "enum": [str(kind) for kind in VerdictKind]},
}
