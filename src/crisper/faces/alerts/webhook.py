"""The webhook: a CloudEvent, signed by Standard Webhooks, to an address that was checked."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import urlsplit

import urllib3
from standardwebhooks import Webhook as Signer

from crisper import __version__
from crisper.errors import CrisperError
from crisper.faces.alerts.address import Lookup, checked, lookup
from crisper.faces.alerts.message import Message, as_cloud_event

SECONDS = 3.0
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
        try:
            with self._pool(secure, address, host, port) as pool:
                answer = pool.request(
                    "POST", target, body=body, headers=self._headers(message, body), redirect=False,
                    preload_content=False,
                )  # fmt: skip
                status = answer.status
                answer.close()
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            raise NotDelivered(f"the webhook at {host} cannot be reached: {_why(exc)}") from None
        if 300 <= status < 400:
            raise NotDelivered(f"the webhook at {host} answered {status}, a redirect, which is not followed")
        if not 200 <= status < 300:
            raise NotDelivered(f"the webhook at {host} answered {status}")
        return f"{host} answered {status}"

    def _pool(self, secure: bool, address: str, host: str, port: int) -> urllib3.HTTPConnectionPool:
        timeout = urllib3.Timeout(total=SECONDS)
        if not secure:
            return urllib3.HTTPConnectionPool(address, port, timeout=timeout, retries=False)
        return urllib3.HTTPSConnectionPool(
            address, port, timeout=timeout, retries=False, server_hostname=host, assert_hostname=host,
            cert_reqs="CERT_REQUIRED",
        )  # fmt: skip

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


def _why(exc: BaseException) -> str:
    """The name of what went wrong: its words may hold the address, which may be a secret."""
    return type(getattr(exc, "reason", None) or exc).__name__
