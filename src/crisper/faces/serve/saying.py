"""How `crisper serve` says no: as JSON to programs, as a page to people; never with a traceback."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from crisper.errors import (
    BadQuestion,
    CrisperError,
    MessageDamaged,
    Refused,
    RegistryError,
    RegistryUnreachable,
    TaskNotFound,
)
from crisper.faces.serve.render import is_page, page

logger = logging.getLogger("crisper.serve")

_STATUS: tuple[tuple[type[Exception], int, str], ...] = (
    (RegistryUnreachable, 503, "registry_unreachable"),
    (RegistryError, 503, "registry_not_ready"),
    (TaskNotFound, 404, "not_found"),
    (BadQuestion, 400, "bad_question"),
    (MessageDamaged, 409, "message_damaged"),
    (Refused, 409, "refused"),
    (CrisperError, 500, "not_possible"),
)


_TITLES = {
    400: "That makes no sense",
    403: "That is not for you",
    404: "There is nothing here",
    405: "That is not how to ask",
    500: "An error in Crisper",
    503: "The registry does not answer",
}


class Answered(Exception):
    """What an endpoint says instead of its answer."""

    def __init__(
        self, status: int, kind: str, sentence: str, headers: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        super().__init__(sentence)
        self.status, self.kind, self.sentence, self.headers = status, kind, sentence, headers


def no(
    scope: Any, status: int, kind: str, sentence: str, more: Mapping[str, str] = MappingProxyType({})
) -> Response:
    headers = {**more, **({"Retry-After": "10"} if status in (429, 503) else {})}
    if not is_page(scope):
        return JSONResponse({"error": {"kind": kind, "message": sentence}}, status, headers)
    if status == 401:
        answer = page(scope, "signin.html", 401, sentence=sentence)
    else:
        title = _TITLES.get(status, "That cannot be done")
        answer = page(scope, "error.html", status, title=title, sentence=sentence, again=status == 503)
    answer.headers.update(headers)
    return answer


async def crisper_error(request: Request, exc: Exception) -> Response:
    for kind, status, word in _STATUS:
        if isinstance(exc, kind):
            return no(request.scope, status, word, str(exc))
    raise exc


async def answered(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, Answered)
    return no(request.scope, exc.status, exc.kind, exc.sentence, exc.headers)


async def internal_error(request: Request, exc: Exception) -> Response:
    """The cause is in the log, under an id; whoever asked gets the id."""
    id = secrets.token_hex(4)
    logger.error("crisper serve: internal error %s at %s", id, request.url.path[:200], exc_info=exc)
    return no(
        request.scope,
        500,
        "internal_error",
        f"An error in Crisper itself. Look for {id} in the log of crisper serve, and report it.",
    )
