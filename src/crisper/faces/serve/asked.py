"""What a request asks for, each part with its limit. Raises `BadQuestion` for the rest."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, NamedTuple

from starlette.requests import Request

from crisper.core.states import Saw
from crisper.engine.filters import LIMIT_MOST, LONGEST_ARGUMENT, TASK_STATES, Filters
from crisper.engine.moments import Moment, age_ms, moment
from crisper.errors import BadQuestion
from crisper.faces.serve.access import Role
from crisper.faces.serve.saying import Answered

LARGEST_BODY = 16 * 1024
#: Of many decisions at once: so many ids, each of the longest, written in JSON's worst way.
LARGEST_BODY_OF_MANY = 1024 * 1024
MANY = 100
LONGEST = 1024
LONGEST_REASON = 1000
LONGEST_TIME = 40
LARGEST_NUMBER = 2**31 - 1


def only(request: Request, known: Collection[str], repeated: Collection[str] = ("state",)) -> None:
    """A parameter that is not known, or stands there twice, is refused: it would not be heeded."""
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name not in known:
            raise BadQuestion(
                f"there is no parameter {name[:40]!r} here; there are {', '.join(known) or 'none'}"
            )
        if name not in repeated and names.count(name) > 1:
            raise BadQuestion(f"{name} stands there twice")


def text(request: Request, name: str, most: int = LONGEST) -> str | None:
    value = request.query_params.get(name)
    if value is not None and len(value) > most:
        raise BadQuestion(f"{name} is longer than {most} characters")
    return value or None


def number(request: Request, name: str, default: int, most: int = LIMIT_MOST) -> int:
    given = request.query_params.get(name)
    if given is None:
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
    if request.query_params.get("argument") and request.state.who.role < Role.OPERATOR:
        raise Answered(403, "not_allowed", "Only an operator may search what tasks were called with.")
    states = tuple(state for state in request.query_params.getlist("state") if state)
    if len(states) > len(TASK_STATES):
        raise BadQuestion("there are not so many states")
    older = text(request, "older_than", LONGEST_TIME)
    return Filters(
        states,
        text(request, "name"),
        text(request, "worker"),
        text(request, "queue"),
        None if older is None else age_ms(older),
        text(request, "id"),
        when(request, "since"),
        when(request, "until"),
        text(request, "argument", LONGEST_ARGUMENT),
        text(request, "lost_by"),
    )


def when(request: Request, name: str) -> Moment | None:
    given = text(request, name, LONGEST_TIME)
    return None if given is None else moment(given)


class Decision:
    """What a person decided, on what they saw."""

    def __init__(self, told: dict[str, Any]) -> None:
        _nothing_else(told, ("attempt", "state", "reason"))
        self.saw, self.reason = _saw(told), _reason(told)


class Seen(NamedTuple):
    """One of many, as a person saw it."""

    task_id: str
    saw: Saw


class Decisions:
    """What a person decided about many, on what they saw of each."""

    def __init__(self, told: dict[str, Any]) -> None:
        _nothing_else(told, ("tasks", "confirm", "reason"))
        tasks = told.get("tasks")
        if not isinstance(tasks, list) or not 1 <= len(tasks) <= MANY:
            raise BadQuestion(f"say which tasks, 1 to {MANY} of them, each as you saw it: {_EXAMPLE}")
        self.seen, self.reason = [_seen(task) for task in tasks], _reason(told)
        if len({one.task_id for one in self.seen}) < len(self.seen):
            raise BadQuestion("a task stands there twice")
        if told.get("confirm") != len(self.seen) or isinstance(told["confirm"], bool):
            raise BadQuestion(f'to be sure that so many are meant, say how many: "confirm": {len(tasks)}')


_EXAMPLE = '{"tasks": [{"task_id": "…", "attempt": 1, "state": "quarantined"}], "confirm": 1, "reason": "…"}'


def _seen(told: Any) -> Seen:
    id = told.get("task_id") if isinstance(told, dict) else None
    if not isinstance(id, str) or len(id) > LONGEST:
        raise BadQuestion(f"each task is told as you saw it: {_EXAMPLE}")
    _nothing_else(told, ("task_id", "attempt", "state"))
    return Seen(id, _saw(told))


def _nothing_else(told: dict[str, Any], known: Collection[str]) -> None:
    unknown = set(told) - set(known)
    if unknown:
        raise BadQuestion(f"there is nothing called {sorted(unknown)[0][:40]!r} to say here")


def _saw(told: dict[str, Any]) -> Saw:
    attempt, state = told.get("attempt"), told.get("state")
    known = isinstance(state, str) and state in TASK_STATES
    if isinstance(attempt, float) and attempt.is_integer():
        attempt = int(attempt)  # JSON knows no other difference between 1 and 1.0
    if type(attempt) is not int or not 1 <= attempt <= LARGEST_NUMBER or not known:
        raise BadQuestion(
            "say which attempt you saw, and in which state the task was: "
            '{"attempt": 1, "state": "quarantined", "reason": "…"}'
        )
    return Saw(attempt, str(state))


def _reason(told: dict[str, Any]) -> str:
    reason = told.get("reason", "")
    if not isinstance(reason, str) or len(reason) > LONGEST_REASON:
        raise BadQuestion(f"a reason is a text of at most {LONGEST_REASON} characters")
    return reason.strip()


async def body(request: Request, most: int = LARGEST_BODY) -> dict[str, Any]:
    """A JSON object of at most `most` bytes."""
    taken = bytearray()
    async for part in request.stream():
        taken += part
        if len(taken) > most:
            raise Answered(413, "too_large", f"A request's body has at most {most} bytes.")
    try:
        told = json.loads(taken)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise BadQuestion("the body must be a JSON object")
    return told
