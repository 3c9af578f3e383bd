"""Sessions of browsers, and the one-time link that begins one. In memory: a restart ends them all."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from crisper.faces.serve.access import Role, Who

IDLE_SECONDS = 8 * 3600.0
LONGEST_SECONDS = 7 * 86_400.0
MOST = 500
#: Of a cookie or a token: 256 bits.
_BYTES = 32


@dataclass(slots=True)
class _Session:
    who: Who
    began: float
    seen: float


class Sessions:
    """Used by the server's one thread. Times are seconds of a monotonic clock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sessions: dict[str, _Session] = {}

    def begin(self, name: str, role: Role) -> str:
        """A new session's id. Beyond `MOST` the one that was idle longest ends."""
        if len(self._sessions) >= MOST:
            del self._sessions[min(self._sessions, key=lambda id: self._sessions[id].seen)]
        id, now = secrets.token_urlsafe(_BYTES), self._clock()
        self._sessions[id] = _Session(Who(name, role, secrets.token_urlsafe(_BYTES)), now, now)
        return id

    def who(self, id: str) -> Who | None:
        session, now = self._sessions.get(id), self._clock()
        if session is None:
            return None
        if now - session.seen > IDLE_SECONDS or now - session.began > LONGEST_SECONDS:
            del self._sessions[id]
            return None
        session.seen = now
        return session.who

    def end(self, id: str) -> None:
        self._sessions.pop(id, None)


class Link:
    """A token that opens one session. Once it is used another takes its place, on the terminal."""

    def __init__(self, announce: Callable[[str], None]) -> None:
        self._announce = announce
        self._token = ""

    def renew(self) -> None:
        self._token = secrets.token_urlsafe(_BYTES)
        self._announce(self._token)

    def spend(self, token: str) -> bool:
        if not self._token or not secrets.compare_digest(token.encode(), self._token.encode()):
            return False
        self.renew()
        return True
