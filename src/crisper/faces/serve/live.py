"""Server-sent events: a page is told that something has changed, and asks for itself again."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import StreamingResponse

from crisper.errors import CrisperError
from crisper.faces.serve import asked
from crisper.faces.serve.access import Needs
from crisper.faces.serve.doors import Door
from crisper.faces.serve.registry import Registry
from crisper.faces.serve.saying import Answered

#: The registry is asked that often at most, however many listen; nobody listens, nobody asks.
LOOK_SECONDS = 2.0
STREAMS = 250
#: A stream ends after that; a browser comes again, and shows anew who it is.
LONGEST_SECONDS = 600.0
_TICK = 0.25
_CHANGED = "event: changed\ndata: \n\n"
_QUIET_SECONDS = 15.0


class Watch:
    """What the pages show, as one word that changes when it does. From any thread."""

    def __init__(self, registry: Registry) -> None:
        self._registry, self._lock = registry, threading.Lock()
        self._word, self._again_at = "", 0.0

    def is_due(self) -> bool:
        return time.monotonic() >= self._again_at

    def word(self) -> str:
        with self._lock:
            if time.monotonic() >= self._again_at:
                before, self._word = self._word, self._look()
                if self._word != before:
                    self._registry.shown.forget()  # who is told now must not see what was before
                self._again_at = time.monotonic() + LOOK_SECONDS
            return self._word

    def _look(self) -> str:
        survey = self._registry.survey
        try:
            with self._registry.reading.snapshot():
                status = survey.status()
                status["registry"].pop("now")
                seen: Any = [status, survey.tasks(limit=50)["tasks"], _lives(survey.workers())]
        except CrisperError as exc:
            seen = str(exc)
        return hashlib.sha256(json.dumps(seen).encode()).hexdigest()


def _lives(answer: dict[str, Any]) -> list[Any]:
    shown = ("id", "state", "leads", "open_attempts", "running", "errors")
    return [tuple(one[key] for key in shown) for one in answer["workers"]]


class Live:
    def __init__(self, registry: Registry, ending: threading.Event) -> None:
        self._watch, self._ending = Watch(registry), ending
        self.streams = 0
        self._word, self._looking = "", False

    def doors(self) -> list[Door]:
        return [Door("GET", "/live", Needs.VIEWER, self.stream, "Says that something has changed.")]

    async def stream(self, request: Request) -> StreamingResponse:
        asked.only(request, ())
        if self.streams >= STREAMS:
            raise Answered(503, "too_many_streams", "Too many pages are open: this one stands still.")
        return StreamingResponse(self._changes(), media_type="text/event-stream")

    async def _changes(self) -> AsyncIterator[str]:
        self.streams += 1
        try:
            async for part in self._told():
                yield part
        finally:
            self.streams -= 1

    async def _told(self) -> AsyncIterator[str]:
        await self._look()
        word = self._word
        # What changed since the page was drawn, or while it was cut off, nobody has told it.
        yield f"retry: 5000\n\n{_CHANGED}"
        ends = time.monotonic() + LONGEST_SECONDS
        quiet = time.monotonic() + _QUIET_SECONDS
        while not self._ending.is_set() and (now := time.monotonic()) < ends:
            await anyio.sleep(_TICK)
            await self._look()
            if word != self._word:
                word, quiet = self._word, now + _QUIET_SECONDS
                yield _CHANGED
            if now >= quiet:
                quiet = now + _QUIET_SECONDS
                yield ": nothing new\n\n"

    async def _look(self) -> None:
        """One stream looks for all: threads are for pages."""
        if self._looking or not self._watch.is_due():
            return
        self._looking = True
        try:
            self._word = await run_in_threadpool(self._watch.word)
        finally:
            self._looking = False
