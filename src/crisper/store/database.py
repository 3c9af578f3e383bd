"""One connection to a registry, and what is peculiar to its dialect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

Row = tuple[Any, ...]


class Conflict(Exception):
    """The database refused a transaction that may simply be tried again (deadlock)."""


class Abortable(Protocol):
    def abort(self) -> None:
        """From any thread: make the call that is under way fail now."""


#: Holds a deadline over one transaction (`crisper.engine.deadline`).
Within = Callable[[Abortable], AbstractContextManager[Any]]


class Database(Protocol):
    """One connection, and what is peculiar to its dialect."""

    #: Appended to a SELECT: keep the row as it is; take it; take what nobody has.
    share: str
    lock: str
    skip: str

    where: str  # the registry's URL without its password

    def write(self) -> AbstractContextManager[None]:
        """A transaction that commits at the end of the block."""

    def rows(self, sql: str, *params: Any) -> list[Row]: ...

    def run(self, sql: str, *params: Any) -> int:
        """Rows changed."""

    def each(self, sql: str, params: Sequence[Row]) -> list[int]:
        """The statement once per row of params, in few round trips; rows changed by each."""

    def has_table(self, name: str) -> bool: ...

    def now(self) -> str:
        """An SQL expression: milliseconds of the registry's clock."""

    def close(self) -> None: ...

    def abort(self) -> None: ...
