"""The webhook: a CloudEvent, signed by Standard Webhooks, to an address that was checked."""

from __future__ import annotations

import socket
from contextlib import AbstractContextManager, closing
from datetime import UTC, datetime
from http.client import HTTPException
from urllib.parse import urlsplit

import urllib3
from standardwebhooks import Webhook as Signer
from urllib3.connection import HTTPConnection, HTTPSConnection

from crisper import __version__
from crisper.engine.deadline import hang_up_after
from crisper.errors import CrisperError
from crisper.faces.alerts.address import Lookup, checked, lookup
from crisper.faces.alerts.message import Message, as_cloud_event

#: To connect, and between two bytes; and for all of it.
SECONDS, LONGEST_SECONDS = 3.0, 6.0
#: Of a certificate for another host urllib3 says that it is a `ValueError`.
_FAILURES = (urllib3.exceptions.HTTPError, HTTPException, OSError, ValueError)
CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"


class NotDelivered(CrisperError):
    """A message did not arrive; says why, without what the other side answered."""


class Webhook:
    """One address. No redirect is followed, no proxy of the environment is used."""

    name = "webhook"

    def __init__(self, url: str, secret: str, *, private: bool, find: Lookup = lookup) -> None:
        self._parts = urlsplit(url)
        self._signer, self._private, self._find = Signer(secret), private, find

    def send(self, message: Message) -> str:
        """What came back, in words. Raises `NotDelivered`, or `Refused` where the address is not allowed."""
        body = as_cloud_event(message)
        secure, host = self._parts.scheme == "https", str(self._parts.hostname)
        port = self._parts.port or (443 if secure else 80)
        address = checked(host, port, private=self._private, find=self._find)
        target = (self._parts.path or "/") + (f"?{self._parts.query}" if self._parts.query else "")
        headers = self._headers(message, body)
        try:
            with closing(self._connection(secure, address, host, port)) as connection, _at_most(connection):
                connection.request("POST", target, body=body, headers=headers, preload_content=False)
                status = connection.getresponse().status
        except _FAILURES as exc:
            raise NotDelivered(f"the webhook at {host} cannot be reached: {_why(exc)}") from None
        if 300 <= status < 400:
            raise NotDelivered(f"the webhook at {host} answered {status}, a redirect, which is not followed")
        if not 200 <= status < 300:
            raise NotDelivered(f"the webhook at {host} answered {status}")
        return f"{host} answered {status}"

    def _connection(self, secure: bool, address: str, host: str, port: int) -> HTTPConnection:
        """To that very address; redirects and proxies are for others to follow."""
        if not secure:
            return HTTPConnection(address, port, timeout=SECONDS)
        return HTTPSConnection(
            address,
            port,
            timeout=SECONDS,
            server_hostname=host,
            assert_hostname=host,
            cert_reqs="CERT_REQUIRED",
        )

    def _headers(self, message: Message, body: bytes) -> dict[str, str]:
        now = datetime.now(UTC)
        return {
            "Host": self._parts.netloc.rpartition("@")[2],
            "Content-Type": CONTENT_TYPE,
            "User-Agent": f"crisper/{__version__}",
            "webhook-id": message.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._signer.sign(message.id, now, body.decode("ascii")),
        }


def _at_most(connection: HTTPConnection) -> AbstractContextManager[None]:
    """Who answers a byte at a time is hung up on."""

    def hang_up() -> None:
        if connection.sock is not None:
            connection.sock.shutdown(socket.SHUT_RDWR)

    return hang_up_after(LONGEST_SECONDS, hang_up)


def _why(exc: BaseException) -> str:
    """The name of what went wrong: its words may hold the address, which may be a secret."""
    return type(getattr(exc, "reason", None) or exc).__name__
