"""The API's description, made of the doors that there are and the parameters that they heed."""

from __future__ import annotations

from typing import Any

from crisper import __version__
from crisper.faces.serve.access import Needs
from crisper.faces.serve.asked import LARGEST_NUMBER, LONGEST, LONGEST_REASON, MANY
from crisper.faces.serve.doors import Door
from crisper.faces.serve.parameters import PARAMETERS, Parameter, names
from crisper.faces.serve.schema import TEXT, Schema, ref
from crisper.faces.serve.shapes import SHAPES, TASK_STATE

#: What each answers when nothing is wrong; of two shapes, one.
_ANSWERS: dict[str, tuple[str, ...]] = {
    "/api/v1/status": ("Status",),
    "/api/v1/workers": ("Workers",),
    "/api/v1/tasks": ("Tasks",),
    "/api/v1/tasks/{task_id:path}": ("Story", "Published"),
    "/api/v1/events": ("Events",),
    "/api/v1/failures": ("Failures",),
    "/api/v1/queues": ("Queues",),
    "/api/v1/running": ("Running",),
    "/api/v1/timeline": ("Timeline",),
    "/api/v1/selection": ("Selection",),
    "/api/v1/session": ("Session",),
    "/api/v1/session/end": ("Ended",),
}
#: And what it is where it is no JSON.
_FILES = {"/api/v1/export/events": ("application/x-ndjson", "text/csv")}


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
        "components": {"securitySchemes": _SCHEMES, "schemas": {**SHAPES, **_ASKED}},
    }


def _operation(door: Door) -> dict[str, Any]:
    role = "operator" if door.needs is Needs.OPERATOR else "viewer"
    operation: dict[str, Any] = {
        "summary": door.about,
        "operationId": _operation_id(door),
        "parameters": [_parameter(one) for one in PARAMETERS.get(door.path, ())],
        "responses": _responses(door),
        "security": _security(door),
        "x-crisper-role": None if door.needs is Needs.NOTHING else role,
    }
    if _of_one(door):
        path = {"name": "task_id", "in": "path", "required": True, "schema": {**TEXT, "maxLength": LONGEST}}
        operation["parameters"].append({**path, "description": "Whole, and URL-encoded."})
    if (asked := _asked(door)) is not None:
        operation["requestBody"] = {"required": True, "content": _json(ref(asked))}
    return operation


def _of_one(door: Door) -> bool:
    return "{task_id:path}" in door.path


def _asked(door: Door) -> str | None:
    """The shape of what is sent."""
    if door.needs is Needs.OPERATOR:
        return "Decision" if _of_one(door) else "Decisions"
    return {"/api/v1/session": "SignIn", "/api/v1/session/end": "Anything"}.get(door.path)


def _operation_id(door: Door) -> str:
    words = door.path.replace("{task_id:path}", "one").replace(".", "/").strip("/").split("/")
    return "_".join([door.method.lower(), *words[2:]])


def _security(door: Door) -> list[dict[str, list[str]]]:
    """A change takes the session's token besides."""
    if door.needs is Needs.NOTHING:
        return []
    return [{"session": [], **({} if door.method == "GET" else {"token": []})}, {"account": []}]


def _parameter(one: Parameter) -> dict[str, Any]:
    return {"name": one.name, "in": "query", "description": one.about, "schema": one.schema}


def _responses(door: Door) -> dict[str, Any]:
    refused = {**_REFUSED, **(_CHANGES if door.method != "GET" else {})}
    responses = {code: _said(why, "Error") for code, why in refused.items()}
    responses |= _decided(door) if door.needs is Needs.OPERATOR else {"200": _answer(door)}
    if _of_one(door) and door.method == "GET":
        responses["404"] = _said("No such task is on record.", "Error")
    if "argument" in names(door.path):
        responses["403"] = _said("A viewer asks for an argument.", "Error")
    return dict(sorted(responses.items()))


def _answer(door: Door) -> dict[str, Any]:
    if door.path in _FILES:
        return {"description": door.about, "content": {kind: {"schema": TEXT} for kind in _FILES[door.path]}}
    return _said(door.about, *_ANSWERS.get(door.path, ()))


def _decided(door: Door) -> dict[str, Any]:
    if not _of_one(door):
        return {"200": _said("Done.", "Decided"), "207": _said("Not all of them; see each.", "Decided")}
    moved = "It has moved since it was seen, or that cannot be done to it."
    return {
        "200": _said("Done.", "Decided"),
        "202": _said("Decided; a live worker carries it out.", "Decided"),
        "404": _said("No such task is on record.", "Decided"),
        "409": _said(moved, "Decided", "Error"),
    }


def _said(about: str, *shapes: str) -> dict[str, Any]:
    """An answer in JSON, of one of these shapes; of none, any object."""
    schemas = [ref(shape) for shape in shapes] or [{"type": "object"}]
    return {"description": about, "content": _json(schemas[0] if len(schemas) == 1 else {"anyOf": schemas})}


def _json(schema: Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


#: How any door may say no; and those by which something is changed.
_REFUSED = {
    "400": "A parameter makes no sense.",
    "401": "Nobody has signed in.",
    "405": "The door has another method.",
    "414": "The address is too long.",
    "421": "This is not called by that name.",
    "429": "Too much within a minute: wrong passwords, or decisions.",
    "503": "The registry cannot be reached, or is not ready.",
}
_CHANGES = {
    "403": "Not an operator, or from another site, or without the session's token.",
    "409": "That cannot be done to one of them.",
    "413": "The body is too large.",
    "415": "It is no JSON.",
}
_SCHEMES = {
    "session": {"type": "apiKey", "in": "cookie", "name": "crisper_session"},
    "token": {"type": "apiKey", "in": "header", "name": "X-CSRF-Token"},
    "account": {"type": "http", "scheme": "basic"},
}
_SAW = {
    "attempt": {
        "type": "integer",
        "minimum": 1,
        "maximum": LARGEST_NUMBER,
        "description": "The latest attempt, as it was seen.",
    },
    "state": TASK_STATE,
}
_REASON = {**TEXT, "maxLength": LONGEST_REASON}


def _sent(*needed: str, **properties: Schema) -> Schema:
    """An object, and nothing else in it."""
    return {
        "type": "object",
        "required": list(needed),
        "properties": properties,
        "additionalProperties": False,
    }


_ONE = _sent("task_id", "attempt", "state", task_id={**TEXT, "maxLength": LONGEST}, **_SAW)
_ASKED: dict[str, Schema] = {
    "Decision": _sent("attempt", "state", **_SAW, reason=_REASON),
    "Decisions": _sent(
        *("tasks", "confirm"),
        tasks={"type": "array", "minItems": 1, "maxItems": MANY, "items": _ONE},
        confirm={
            "type": "integer",
            "minimum": 1,
            "maximum": MANY,
            "description": "How many tasks these are.",
        },
        reason=_REASON,
    ),
    "Anything": {"description": "It is not read; but it says that no form sent it."},
    "SignIn": _sent("name", "password", name=TEXT, password=TEXT),
}
