"""The wall around everything: names, limits, who is asking, and what a state change must bring along."""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
import secrets
import time
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crisper.faces.serve.access import Who
from crisper.faces.serve.accounts import Accounts, TooManyGuesses
from crisper.faces.serve.doors import Door, Doors
from crisper.faces.serve.names import Names
from crisper.faces.serve.saying import Answered, no
from crisper.faces.serve.sessions import Sessions

COOKIE = "crisper_session"
LONGEST_PATH = 4096
LONGEST_QUERY = 8192

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}


class Guard:
    """Nothing is let through that no door declares, whatever the application behind would answer."""

    def __init__(
        self, app: ASGIApp, doors: Doors, names: Names, sessions: Sessions, accounts: Accounts | None
    ) -> None:
        self._app, self._doors, self._names, self._sessions = app, doors, names, sessions
        self._known = Credentials(accounts) if accounts else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return None  # a websocket is closed unheard
        answer = _with_headers(send)
        scope.setdefault("state", {}).update(who=None, accounts=self._known is not None)
        try:
            await self._let_in(scope)
        except Answered as why:
            return await no(scope, why.status, why.kind, why.sentence, why.headers)(scope, receive, answer)
        return await self._app(scope, receive, answer)

    async def _let_in(self, scope: Scope) -> None:
        """Raises `Answered` with the reason why not."""
        headers = Headers(scope=scope)
        if not self._names.may_be(headers.get("host", "")):
            raise Answered(
                421, "not_ours", "This is not called by that name here; --allow-host NAME would allow it."
            )
        if len(scope["path"]) > LONGEST_PATH or len(scope["query_string"]) > LONGEST_QUERY:
            raise Answered(414, "too_long", "That address is too long.")
        who = await self._who(headers)
        scope["state"]["who"] = who
        passed_on = "x-forwarded-for" in headers or "forwarded" in headers
        here = not passed_on and self._names.is_here(headers.get("host", ""))
        door = self._doors.find(scope["method"], scope["path"])
        if door is None:
            raise self._not_there(scope, who)
        if not door.needs.lets_in(who.role if who else None, loopback=here):
            raise _not_for(who)
        if door.method != "GET":
            _check_change(door, headers, who)

    async def _who(self, headers: Headers) -> Who | None:
        given = headers.get("authorization")
        if given is not None and self._known is not None:
            return await self._known.who(given)
        id = session_of(headers)
        return self._sessions.who(id) if id else None

    def _not_there(self, scope: Scope, who: Who | None) -> Answered:
        if who is None:
            return _not_for(None)
        there = self._doors.at(scope["path"])
        if there:
            methods = ", ".join(sorted({door.method for door in there}))
            return Answered(405, "wrong_method", f"Here only {methods} will do.", {"Allow": methods})
        return Answered(404, "not_found", "There is nothing at this address.")


class Credentials:
    """A name and a password with every request. What was right lately is not reckoned again."""

    KEPT_SECONDS = 300.0
    MOST = 100

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._key = secrets.token_bytes(32)
        self._right: dict[bytes, tuple[float, Who]] = {}
        self._few = anyio.CapacityLimiter(2)

    async def who(self, header: str) -> Who | None:
        scheme, _, given = header.partition(" ")
        if scheme.lower() != "basic" or len(given) > LONGEST_QUERY:
            return None
        mark, now = hmac.digest(self._key, given.encode(), hashlib.sha256), time.monotonic()
        kept = self._right.get(mark)
        if kept is not None and kept[0] > now:
            return kept[1]
        try:
            name, colon, password = base64.b64decode(given, validate=True).decode().partition(":")
        except (ValueError, binascii.Error):
            return None
        if not colon:
            return None
        who = await self.check(name, password)
        if who is not None:
            if len(self._right) >= self.MOST:
                self._right.clear()
            self._right[mark] = now + self.KEPT_SECONDS, who
        return who

    async def check(self, name: str, password: str) -> Who | None:
        try:
            asked = functools.partial(self._accounts.check, name, password)
            found = await anyio.to_thread.run_sync(asked, limiter=self._few)
        except TooManyGuesses:
            raise Answered(
                429, "too_many_guesses", "Too many wrong passwords for this name; wait a minute."
            ) from None
        return Who(found.name, found.role) if found else None


def session_of(headers: Headers) -> str | None:
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    return None if cookie is None else cookie.value


def _not_for(who: Who | None) -> Answered:
    if who is None:
        return Answered(401, "who_are_you", "Sign in first.")
    return Answered(403, "not_allowed", f"{who.name} may look, but only an operator may do that.")


def _check_change(door: Door, headers: Headers, who: Who | None) -> None:
    """JSON, from a page of ours, with its session's token: no other site's script brings all three."""
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Answered(415, "not_json", "Send JSON, as Content-Type: application/json.")
    origin = headers.get("origin")
    foreign = origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
    if foreign or headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Answered(403, "foreign_origin", "Another site asked for that.")
    if who is None or who.csrf is None:
        return
    if not secrets.compare_digest(headers.get("x-csrf-token", "").encode(), who.csrf.encode()):
        raise Answered(403, "no_csrf_token", "The page is from another session: load it again.")


def _with_headers(send: Send) -> Send:
    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return answer
