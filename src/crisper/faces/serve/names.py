"""Which addresses are this machine's own, and by which names a browser may call us.

A page elsewhere can have its own name point at us (DNS rebinding): whoever calls us by a name that is
not ours is refused, whatever they ask for.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_HOST = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[A-Za-z0-9._-]{1,253}))(?::\d{1,5})?", re.ASCII
)


def is_loopback(host: str) -> bool:
    """Whether all that this name stands for is this machine's loopback."""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(_address(str(one)).is_loopback for one in found)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(text.partition("%")[0])


class Names:
    """What may stand in a Host header."""

    def __init__(self, host: str, more: Iterable[str] = ()) -> None:
        self.loopback = is_loopback(host)
        given = {name.lower().strip("[]") for name in (host, *more)}
        if not self.loopback:
            given |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        self._known = LOOPBACK | given

    def may_be(self, header: str) -> bool:
        """An address is nobody's name to point elsewhere, so beyond loopback any will do."""
        name = name_of(header)
        return name is not None and (name in self._known or (not self.loopback and _is_address(name)))

    def is_here(self, header: str) -> bool:
        """Whether it was asked on loopback, and by loopback's name: a proxy's callers are not here."""
        return self.loopback and name_of(header) in LOOPBACK


def _is_address(name: str) -> bool:
    try:
        return bool(_address(name))
    except ValueError:
        return False


def name_of(header: str) -> str | None:
    found = _HOST.fullmatch(header)
    return None if found is None else (found["six"] or found["name"]).lower()
