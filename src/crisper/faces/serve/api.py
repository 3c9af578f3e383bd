"""The JSON API: the answers of the command line, and what an operator may do."""

from __future__ import annotations

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse

from crisper.engine.control import Done, Outcome
from crisper.engine.filters import LIMIT_MOST
from crisper.engine.trail import Wanted, following
from crisper.errors import TaskNotFound
from crisper.faces.serve import asked, parameters
from crisper.faces.serve.access import Needs, Role, Who
from crisper.faces.serve.doors import Door
from crisper.faces.serve.pace import Pace
from crisper.faces.serve.registry import VERBS, Registry, signature

_STATUS = {Outcome.DONE: 200, Outcome.UNREACHABLE: 202, Outcome.NOT_FOUND: 404}

TASK = "/api/v1/tasks/{task_id:path}"


class Api:
    """Questions run in threads, a few at a time."""

    def __init__(self, registry: Registry, pace: Pace) -> None:
        self._registry, self._survey, self._pace = registry, registry.survey, pace

    def doors(self) -> list[Door]:
        look = Needs.VIEWER
        return [
            *(self._door_to(verb) for verb in VERBS),
            Door("GET", "/api/v1/status", look, self.status, "How it stands."),
            Door("GET", "/api/v1/workers", look, self.workers, "Every life of every worker."),
            Door(
                "GET", "/api/v1/tasks", look, self.tasks, "Tasks by their latest attempt, the newest first."
            ),
            Door("GET", "/api/v1/events", look, self.events, "What happened, in the order it was written."),
            Door("GET", TASK, look, self.task, "One task's whole story."),
        ]

    def status(self, request: Request) -> JSONResponse:
        asked.only(request, ())
        return JSONResponse(self._registry.status())

    def workers(self, request: Request) -> JSONResponse:
        asked.only(request, parameters.names("/api/v1/workers"))
        limit = asked.number(request, "limit", LIMIT_MOST)
        return JSONResponse(self._survey.workers(everything=asked.flag(request, "all"), limit=limit))

    def tasks(self, request: Request) -> JSONResponse:
        asked.only(request, parameters.names("/api/v1/tasks"))
        limit, cursor = asked.number(request, "limit", 50), request.query_params.get("cursor") or None
        return JSONResponse(self._survey.tasks(asked.filters(request), limit=limit, cursor=cursor))

    def events(self, request: Request) -> JSONResponse:
        asked.only(request, parameters.names("/api/v1/events"))
        kind, task_id = asked.text(request, "kind"), asked.text(request, "task_id")
        wanted = Wanted(task_id, () if kind is None else (kind,), asked.text(request, "by", 500))
        limit, after = asked.number(request, "limit", 100), request.query_params.get("after") or None
        return JSONResponse(following(self._registry.reading, wanted, limit=limit, after=after))

    def task(self, request: Request) -> JSONResponse:
        asked.only(request, ())
        return JSONResponse(story(self._registry, request.path_params["task_id"], who(request)))

    def _door_to(self, verb: str) -> Door:
        async def decide(request: Request) -> JSONResponse:
            asked.only(request, ())
            decision = asked.Decision(await asked.body(request))
            self._pace.one_more(who(request).name)
            by, task_id = signature(who(request).name), request.path_params["task_id"]
            done = await run_in_threadpool(self._registry.decide, verb, task_id, decision, by=by)
            return JSONResponse({"tasks": [answer_of(done)]}, _STATUS.get(done.outcome, 409))

        about = {
            "recover": "Run it again.",
            "discard": "Close it for good.",
            "stop": "Stop it.",
        }
        return Door("POST", f"/api/v1/{verb}/{{task_id:path}}", Needs.OPERATOR, decide, about[verb])


def who(request: Request) -> Who:
    found = request.state.who
    assert isinstance(found, Who)
    return found


#: Stands in the place of what only an operator sees.
HIDDEN = {"__hidden__": "only an operator sees this"}


def story(registry: Registry, task_id: str, reader: Who) -> dict[str, Any]:
    """What is on record of a task, or of its message, if nobody has claimed it. Raises `TaskNotFound`.

    A viewer does not see what it was called with, nor what it keeps for itself.
    """
    told = registry.survey.task(task_id) or registry.survey.published(task_id)
    if told is None:
        raise TaskNotFound("no task of that id is on record")
    if reader.role >= Role.OPERATOR:
        return told
    told |= {"args_preview": HIDDEN, "kwargs_preview": HIDDEN}
    if told.get("checkpoint"):
        told["checkpoint"] |= {"preview": HIDDEN}
    return told


def answer_of(done: Done) -> dict[str, Any]:
    return {
        "task_id": done.task_id,
        "outcome": str(done.outcome),
        "reason": done.reason or None,
        "attempt": done.attempt,
    }
