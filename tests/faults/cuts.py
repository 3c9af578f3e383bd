"""Cutting a connection at what its client says: before the server hears it, or after it did."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Protocol


@dataclass
class Cut:
    """Where a phrase contains `at`, in a transaction that contains `within`, the connection is reset.

    `heard`: only after the server was given the phrase and has answered (with `reply`), or after
    `patience` seconds; the answer does not reach the client. Otherwise the server never hears it.
    """

    at: str
    within: str = ""
    heard: bool = True
    times: int = 1
    reply: bytes = b""
    patience: float = 2.0
    done: int = 0

    def strikes(self, phrase: str, transaction: str) -> bool:
        return self.done < self.times and self.at in phrase and self.within in transaction


def at_commit(within: str, *, heard: bool, times: int = 1) -> Cut:
    """At the COMMIT of a transaction with such a statement."""
    return Cut("COMMIT", within, heard, times, reply=b"COMMIT\0")


def at_statement(containing: str, *, heard: bool, times: int = 1) -> Cut:
    """At one that is a transaction by itself and returns one row, with this in its text or parameters."""
    return Cut(containing, heard=heard, times=times, reply=b"SELECT 1\0")


class Speech(Protocol):
    """What one client says, phrase by phrase."""

    def hear(self, chunk: bytes) -> list[str]: ...

    def ends(self, phrase: str) -> bool:
        """Whether a transaction ends with this phrase."""


class Raw:
    """Bytes as they come, each a character; a pattern may lie across two chunks."""

    def __init__(self) -> None:
        self._tail = ""

    def hear(self, chunk: bytes) -> list[str]:
        phrase = self._tail + chunk.decode("latin-1")
        self._tail = phrase[-64:]
        return [phrase]

    def ends(self, phrase: str) -> bool:
        return True


#: The code that follows the length of a startup packet of protocol 3.
_PROTOCOL_3 = 196608


class Sql:
    """PostgreSQL's protocol 3, from the client: its statements, prepared ones too, with their parameters."""

    def __init__(self) -> None:
        self._buffer = b""
        self._started = False
        self._begun = False
        self._prepared: dict[bytes, str] = {}

    def hear(self, chunk: bytes) -> list[str]:
        self._buffer += chunk
        said = []
        while (message := self._next()) is not None:
            said += self._statement(*message)
        return said

    def ends(self, phrase: str) -> bool:
        if phrase.startswith("BEGIN"):
            self._begun = True
        elif phrase.startswith(("COMMIT", "ROLLBACK")):
            self._begun = False
        return not self._begun

    def _next(self) -> tuple[bytes, bytes] | None:
        """The next whole message, `(type, payload)`."""
        head = 1 if self._started else 0
        if len(self._buffer) < head + 4:
            return None
        (length,) = struct.unpack_from(">i", self._buffer, head)
        if len(self._buffer) < head + length:
            return None
        kind, payload = self._buffer[:head], self._buffer[head + 4 : head + length]
        self._buffer = self._buffer[head + length :]
        if not self._started:  # asking for encryption may come first
            self._started = struct.unpack_from(">i", payload)[0] == _PROTOCOL_3
        return kind, payload

    def _statement(self, kind: bytes, payload: bytes) -> list[str]:
        if kind == b"Q":
            return [payload.rstrip(b"\0").decode()]
        if kind == b"P":
            name, sql, _ = payload.split(b"\0", 2)
            self._prepared[name] = sql.decode()
        elif kind == b"B":
            _, name, parameters = payload.split(b"\0", 2)
            return [self._prepared.get(name, "") + parameters.decode("latin-1")]
        return []
