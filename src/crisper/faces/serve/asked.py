"""What a request asks for, each part with its limit. Raises `BadQuestion` for the rest."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from starlette.requests import Request

from crisper.core.states import Saw
from crisper.engine.filters import LIMIT_MOST, TASK_STATES, Filters, age_ms
from crisper.errors import BadQuestion
from crisper.faces.serve.saying import Answered

LARGEST_BODY = 16 * 1024
LONGEST = 1024
LONGEST_REASON = 1000
_LARGEST_NUMBER = 2**31 - 1


def only(request: Request, known: Collection[str]) -> None:
    """A parameter that is not known, or stands there twice, is refused: it would not be heeded."""
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name not in known:
            raise BadQuestion(
                f"there is no parameter {name[:40]!r} here; there are {', '.join(known) or 'none'}"
            )
        if name != "state" and names.count(name) > 1:
            raise BadQuestion(f"{name} stands there twice")


def text(request: Request, name: str, most: int = LONGEST) -> str | None:
    value = request.query_params.get(name)
    if value is not None and len(value) > most:
        raise BadQuestion(f"{name} is longer than {most} characters")
    return value or None


def number(request: Request, name: str, default: int, most: int = LIMIT_MOST) -> int:
    given = request.query_params.get(name)
    if given is None or given == "":
        return default
    if not (given.isascii() and given.isdigit() and len(given) <= 10 and 1 <= int(given) <= most):
        raise BadQuestion(f"{name} must be a number between 1 and {most}")
    return int(given)


def flag(request: Request, name: str) -> bool:
    given = request.query_params.get(name, "false")
    if given not in ("true", "false", "1", "0"):
        raise BadQuestion(f"{name} is true or false")
    return given in ("true", "1")


def filters(request: Request) -> Filters:
    states = tuple(state for state in request.query_params.getlist("state") if state)
    if len(states) > len(TASK_STATES):
        raise BadQuestion("there are not so many states")
    older = text(request, "older_than")
    return Filters(
        states,
        text(request, "name"),
        text(request, "worker"),
        text(request, "queue"),
        None if older is None else age_ms(older),
    )


class Decision:
    """What a person decided, on what they saw."""

    def __init__(self, told: dict[str, Any]) -> None:
        attempt, state, reason = told.get("attempt"), told.get("state"), told.get("reason", "")
        unknown = set(told) - {"attempt", "state", "reason"}
        if unknown:
            raise BadQuestion(f"there is nothing called {sorted(unknown)[0][:40]!r} to say here")
        if type(attempt) is not int or not 1 <= attempt <= _LARGEST_NUMBER or state not in TASK_STATES:
            raise BadQuestion(
                "say which attempt you saw, and in which state the task was: "
                '{"attempt": 1, "state": "quarantined", "reason": "…"}'
            )
        if not isinstance(reason, str) or len(reason) > LONGEST_REASON:
            raise BadQuestion(f"a reason is a text of at most {LONGEST_REASON} characters")
        self.saw, self.reason = Saw(attempt, str(state)), reason.strip()


async def body(request: Request) -> dict[str, Any]:
    """A JSON object of at most `LARGEST_BODY` bytes."""
    taken = bytearray()
    async for part in request.stream():
        taken += part
        if len(taken) > LARGEST_BODY:
            raise Answered(413, "too_large", f"A request's body has at most {LARGEST_BODY} bytes.")
    try:
        told = json.loads(taken)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise BadQuestion("the body must be a JSON object")
    return told
