"""Which addresses a webhook may be sent to.

`ipaddress.is_global` alone calls NAT64 and 6to4 forms of private addresses global (Python 3.11), so what
embeds an IPv4 address is refused as a whole.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import Any

from crisper.errors import Refused

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: They carry an IPv4 address that nobody here checks.
_EMBED = tuple(
    map(
        ipaddress.IPv6Network,
        ("::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16"),
    )
)
Lookup = Callable[[str, int], list[str]]


def lookup(host: str, port: int) -> list[str]:
    """Raises `OSError`."""
    found: list[Any] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


def is_public(text: str) -> bool:
    try:
        address: _Address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if "%" in text or address.is_multicast or not address.is_global:
        return False
    return not (isinstance(address, ipaddress.IPv6Address) and any(address in some for some in _EMBED))


def checked(host: str, port: int, *, private: bool, find: Lookup = lookup) -> str:
    """The one address to connect to, looked up once. Raises `Refused` if any of the host's is not public.

    All are checked, and the caller connects to this very address: a name that answers otherwise the next
    time leads nowhere.
    """
    try:
        found = find(host, port)
    except (OSError, UnicodeError) as exc:
        raise Refused(f"there is no address of {host}: {exc}") from None
    if not found:
        raise Refused(f"there is no address of {host}")
    for address in found:
        if not private and not is_public(address):
            raise Refused(
                f"{host} is at {address}, which is not public. If the webhook is in your own network, set"
                " crisper_alerts_private = True"
            )
    return found[0]
