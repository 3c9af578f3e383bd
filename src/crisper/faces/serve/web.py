"""The application: every door, behind the guard."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse

from crisper.errors import CrisperError
from crisper.faces.cli.decide import whoami
from crisper.faces.serve import asked, openapi, saying
from crisper.faces.serve.access import Needs
from crisper.faces.serve.accounts import Accounts
from crisper.faces.serve.api import Api
from crisper.faces.serve.audit import Audit
from crisper.faces.serve.doors import Door, Doors
from crisper.faces.serve.entrance import Entrance
from crisper.faces.serve.files import Files
from crisper.faces.serve.guard import Guard
from crisper.faces.serve.health import Health
from crisper.faces.serve.live import Live
from crisper.faces.serve.many import Many
from crisper.faces.serve.metrics import Metrics
from crisper.faces.serve.names import Names
from crisper.faces.serve.pace import Pace
from crisper.faces.serve.pages import Pages
from crisper.faces.serve.present import Present
from crisper.faces.serve.registry import Registry
from crisper.faces.serve.sessions import Link, Sessions
from crisper.faces.serve.sweeping import Sweeping
from crisper.faces.serve.timeline import Timeline
from crisper.faces.serve.troubles import Troubles

#: Questions to the registry at once; each has a connection of its own.
AT_ONCE = 8

HOME = "/"


@dataclass(frozen=True)
class Site:
    """What the application is made of. Without accounts there is a link, announced by its token."""

    registry: Registry
    names: Names
    accounts: Accounts | None = None
    announce: Callable[[str], None] = lambda token: None
    sweeping: Sweeping | None = None
    ending: threading.Event = field(default_factory=threading.Event)


def doors_of(site: Site, sessions: Sessions, link: Link | None) -> Doors:
    me, pace = whoami().partition("@")[0], Pace()
    doors = [
        *Health(site.registry, site.sweeping).doors(),
        *Metrics(site.registry, site.sweeping).doors(),
        *Entrance(sessions, link=link, accounts=site.accounts, me=me, home=HOME).doors(),
        *Api(site.registry, pace).doors(),
        *Pages(site.registry).doors(),
        *Present(site.registry).doors(),
        *Timeline(site.registry).doors(),
        *Troubles(site.registry).doors(),
        *Audit(site.registry).doors(),
        *Many(site.registry, pace).doors(),
        *Live(site.registry, site.ending).doors(),
        *Files().doors(),
    ]

    async def describe(request: Request) -> JSONResponse:
        asked.only(request, ())
        return JSONResponse(openapi.document(described))

    about = "This description."
    described = (*doors, Door("GET", "/api/v1/openapi.json", Needs.VIEWER, describe, about))
    return Doors(described)


def application(site: Site) -> Guard:
    sessions = Sessions()
    link = None if site.accounts else Link(site.announce)
    doors = doors_of(site, sessions, link)

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = AT_ONCE
        if link is not None:
            link.renew()
        yield

    said: dict[Any, Any] = {
        saying.Answered: saying.answered,
        CrisperError: saying.crisper_error,
        Exception: saying.internal_error,
    }
    app = Starlette(routes=[door.route() for door in doors.all], exception_handlers=said, lifespan=life)
    return Guard(app, doors, site.names, sessions, site.accounts)
