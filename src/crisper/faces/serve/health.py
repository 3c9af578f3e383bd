"""Whether this process lives, and whether it can do its work."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse

from crisper.errors import RegistryError
from crisper.faces.serve import asked
from crisper.faces.serve.access import Needs
from crisper.faces.serve.doors import Door
from crisper.faces.serve.registry import Registry
from crisper.faces.serve.sweeping import Sweeping


class Health:
    def __init__(self, registry: Registry, sweeping: Sweeping | None) -> None:
        self._registry, self._sweeping = registry, sweeping

    def doors(self) -> list[Door]:
        return [
            Door("GET", "/healthz", Needs.NOTHING, self.lives, "Whether the process answers."),
            Door("GET", "/readyz", Needs.NOTHING_ON_LOOPBACK, self.ready, "Whether the registry answers."),
        ]

    async def lives(self, request: Request) -> JSONResponse:
        asked.only(request, ())
        return JSONResponse({"status": "ok"})

    def ready(self, request: Request) -> JSONResponse:
        asked.only(request, ())
        sweeper = "off" if self._sweeping is None else self._sweeping.state
        try:
            self._registry.survey.living()
        except RegistryError as exc:
            return JSONResponse({"ready": False, "registry": str(exc), "sweeper": sweeper}, 503)
        ready = sweeper != "dead"
        return JSONResponse({"ready": ready, "registry": "ok", "sweeper": sweeper}, 200 if ready else 503)
