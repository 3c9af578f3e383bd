"""How a browser begins and ends its session: by the link on the terminal, or by name and password."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from crisper.errors import BadQuestion
from crisper.faces.serve import asked
from crisper.faces.serve.access import Needs, Role
from crisper.faces.serve.accounts import Accounts
from crisper.faces.serve.doors import Door
from crisper.faces.serve.guard import COOKIE, Credentials, session_of
from crisper.faces.serve.saying import Answered
from crisper.faces.serve.sessions import LONGEST_SECONDS, Link, Sessions


class Entrance:
    """There is a link where there are no accounts, and accounts elsewhere; never both."""

    def __init__(
        self, sessions: Sessions, *, link: Link | None, accounts: Accounts | None, me: str, home: str
    ) -> None:
        self._sessions, self._link, self._me, self._home = sessions, link, me, home
        self._credentials = Credentials(accounts) if accounts else None

    def doors(self) -> list[Door]:
        leave = Door("POST", "/api/v1/session/end", Needs.VIEWER, self.leave, "End this session.")
        if self._link is not None:
            enter = Door("GET", "/enter", Needs.NOTHING, self.enter, "Begin a session by the one-time link.")
            return [enter, leave]
        sign_in = Door("POST", "/api/v1/session", Needs.NOTHING, self.sign_in, "Begin a session.")
        return [sign_in, leave]

    async def enter(self, request: Request) -> Response:
        asked.only(request, ("token",))
        token = request.query_params.get("token", "")
        if self._link is None or not self._link.spend(token):
            raise Answered(
                401, "link_is_spent", "This link was used, or a newer one took its place: see the terminal."
            )
        answer = RedirectResponse(self._home, 303)
        return self._with_session(request, answer, self._me, Role.OPERATOR)

    async def sign_in(self, request: Request) -> Response:
        told = await asked.body(request)
        name, password = told.get("name"), told.get("password")
        if set(told) != {"name", "password"} or not isinstance(name, str) or not isinstance(password, str):
            raise BadQuestion("say a name and a password, and nothing else")
        found = await self._credentials.check(name, password) if self._credentials else None
        if found is None:
            raise Answered(401, "wrong_password", "There is no such account, or its password is another.")
        answer = JSONResponse({"name": found.name, "role": found.role.name.lower()})
        return self._with_session(request, answer, found.name, found.role)

    async def leave(self, request: Request) -> Response:
        id = session_of(request.headers)
        if id:
            self._sessions.end(id)
        answer = JSONResponse({"ended": True})
        answer.delete_cookie(COOKIE)
        return answer

    def _with_session(self, request: Request, answer: Response, name: str, role: Role) -> Response:
        earlier = session_of(request.headers)
        if earlier:
            self._sessions.end(earlier)
        answer.set_cookie(
            COOKIE,
            self._sessions.begin(name, role),
            max_age=int(LONGEST_SECONDS),
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )
        return answer
