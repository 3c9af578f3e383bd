"""One connection to a registry, and what is peculiar to its dialect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from crisper.core.model import Fence, Record
from crisper.errors import RegistryMoved
from crisper.store.at_once import Written

Row = tuple[Any, ...]


class Conflict(Exception):
    """The database refused a transaction that may simply be tried again (deadlock)."""


class Abortable(Protocol):
    def abort(self) -> None:
        """From any thread: make the call that is under way fail now."""


#: Holds a deadline over one transaction (`crisper.engine.deadline`).
Within = Callable[[Abortable], AbstractContextManager[Any]]


class Place:
    """Which server, in which of its histories, all connections of one recorder should reach."""

    def __init__(self) -> None:
        self.known = ""  # nothing was reached yet, or it cannot be told
        self.replicated = False  # a replica follows it, which may lack its latest commits

    def reached(self, place: str, replicated: bool) -> None:
        """A new connection is to this one. Raises `RegistryMoved` if the ones before were to another."""
        if self.known and place and place != self.known:
            raise RegistryMoved(
                "the registry's server is another one, or went back in time: a failover, or a restore"
            )
        self.known, self.replicated = self.known or place, replicated


class Database(Protocol):
    """One connection, and what is peculiar to its dialect."""

    #: Appended to a SELECT: keep the row as it is; take it; take what nobody has.
    share: str
    lock: str
    skip: str

    #: Whether one statement changes several tables, by `WITH`, and many rows that it is given as JSON.
    combines: bool

    where: str  # the registry's URL without its password

    @property
    def largest(self) -> int | None:
        """Bytes of the largest message that one row may keep, body and envelope; None: any."""

    def write(self) -> AbstractContextManager[None]:
        """A transaction that commits at the end of the block."""

    def single(self) -> AbstractContextManager[None]:
        """A transaction of one statement, which a database may commit by itself, without being told."""

    def rows(self, sql: str, *params: Any) -> list[Row]: ...

    def run(self, sql: str, *params: Any) -> int:
        """Rows changed."""

    def each(self, sql: str, params: Sequence[Row]) -> list[int]:
        """The statement once per row of params, in few round trips; rows changed by each."""

    def at_once(self, fence: Fence, records: Sequence[Record]) -> Written:
        """Write what one statement can, in a transaction of its own; `NOTHING` where that gains nothing."""

    def look_around(self) -> None:
        """See `crisper.store.base.Store`."""

    def has_table(self, name: str) -> bool: ...

    def now(self) -> str:
        """An SQL expression: milliseconds of the registry's clock."""

    def close(self) -> None: ...

    def abort(self) -> None: ...
