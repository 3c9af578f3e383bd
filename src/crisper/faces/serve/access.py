"""Who may do what: roles, what each door needs, and who is asking."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Role(IntEnum):
    """An operator may all that a viewer may, and recover, discard and stop."""

    VIEWER = 1
    OPERATOR = 2


class Needs(IntEnum):
    """What a door asks of whoever comes."""

    NOTHING = 0
    NOTHING_ON_LOOPBACK = 1  # elsewhere a viewer
    VIEWER = 2
    OPERATOR = 3

    def lets_in(self, role: Role | None, *, loopback: bool) -> bool:
        if self is Needs.NOTHING or (self is Needs.NOTHING_ON_LOOPBACK and loopback):
            return True
        least = Role.OPERATOR if self is Needs.OPERATOR else Role.VIEWER
        return role is not None and role >= least


@dataclass(frozen=True, slots=True)
class Who:
    """Somebody who has shown who they are. `csrf` is their session's token; None without a session."""

    name: str
    role: Role
    csrf: str | None = None
