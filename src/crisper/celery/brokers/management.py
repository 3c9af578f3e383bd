"""RabbitMQ's management API: what is asked of it, and the one thing that it is told.

By `http.client`, without proxies or redirects: the address holds a password, which goes to that
server only and into no log.
"""

from __future__ import annotations

import base64
import json
import ssl
import time
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import quote, unquote, urlsplit

#: For one request, from its beginning to its last byte.
DEADLINE_SECONDS = 4.0
#: Of an answer: a hundred thousand connections with the two columns that we ask for.
MOST_BYTES = 64 * 2**20
#: The client property by which a worker's connection names its process.
PROCESS_PROPERTY = "crisper_process"


class ManagementTrouble(Exception):
    """The management API could not be reached, did not answer in time, or refused. Never raised to people."""


class Management:
    """One virtual host, as the API shows it. Any thread; every call is a connection of its own."""

    def __init__(self, url: str, virtual_host: str) -> None:
        self._url = urlsplit(url)
        self._vhost = quote(virtual_host or "/", safe="")

    def queue(self, name: str) -> dict[str, Any] | None:
        """Its type, arguments and effective policy; None if there is no such queue."""
        found = self._ask("GET", f"/api/queues/{self._vhost}/{quote(name, safe='')}")
        return found if isinstance(found, dict) else None

    def connections_of(self, process: str) -> list[str]:
        """Names of the connections by which this worker process consumes; a new one is shown within 5 s."""
        columns = f"columns=name,client_properties.{PROCESS_PROPERTY}"
        listed = self._ask("GET", f"/api/vhosts/{self._vhost}/connections?{columns}") or []
        return [
            str(one["name"])
            for one in listed
            if (one.get("client_properties") or {}).get(PROCESS_PROPERTY) == process
        ]

    def close(self, connection: str, why: str) -> bool:
        """Close that connection; False if it was closed already."""
        return self._ask("DELETE", f"/api/connections/{quote(connection, safe='')}", why) is not None

    def _ask(self, method: str, path: str, why: str = "") -> Any:
        """The answer's JSON, `{}` for an empty one; None for 404. Raises `ManagementTrouble`."""
        give_up = time.monotonic() + DEADLINE_SECONDS
        server = self._connect()
        try:
            server.request(method, self._url.path.rstrip("/") + path, headers=self._headers(why))
            response = server.getresponse()
            body = b""
            while chunk := response.read1(1 << 16):
                body += chunk
                if time.monotonic() > give_up or len(body) > MOST_BYTES:
                    raise TimeoutError(f"more than {DEADLINE_SECONDS:g} s or {MOST_BYTES} bytes")
            if response.status == 404:
                return None
            if response.status >= 300:
                raise HTTPException(f"{response.status} {response.reason} to {method}")
            return json.loads(body) if body else {}
        except (OSError, HTTPException, ValueError) as exc:
            raise ManagementTrouble(
                f"the management API at {self._url.hostname} gave no answer ({type(exc).__name__}: {exc});"
                " check crisper_rabbitmq_management_url, its user, and that user's tag"
            ) from None
        finally:
            server.close()

    def _connect(self) -> HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "https":
            context = ssl.create_default_context()
            return HTTPSConnection(host, port or 15671, timeout=DEADLINE_SECONDS, context=context)
        return HTTPConnection(host, port or 15672, timeout=DEADLINE_SECONDS)

    def _headers(self, why: str) -> dict[str, str]:
        user, password = unquote(self._url.username or "guest"), unquote(self._url.password or "guest")
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        headers = {"Authorization": f"Basic {token}", "Accept": "application/json"}
        return {**headers, "X-Reason": why} if why else headers
