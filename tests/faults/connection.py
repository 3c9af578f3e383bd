"""One connection through the fault proxy: what becomes of the bytes on their way."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, fields
from typing import Any

from tests.faults.cuts import Cut, Speech

#: A lost segment is sent again after this long, then after twice as long (Linux' least RTO, RFC 6298); it is
#: lost so often at most, which takes the last figure.
RTO, LOST_MOST = 0.2, 4
LATE_MOST = RTO * (2**LOST_MOST - 1)
CHUNK, CHUNKS_AHEAD = 65536, 64


@dataclass
class Direction:
    """What happens to bytes on their way; one of it for each direction. Seconds, unless said otherwise."""

    delay: float = 0.0
    jitter: float = 0.0  # up to so much more or less
    loss: float = 0.0  # share of segments that must be sent again, each time
    rate: float = 0.0  # bytes a second; 0: as fast as it goes
    hold: bool = False  # nothing passes; nobody is told

    def heal(self) -> None:
        for field in fields(self):
            setattr(self, field.name, field.default)

    def late_by(self) -> float:
        """How much later than at once this chunk arrives."""
        late = self.delay + random.uniform(-self.jitter, self.jitter)
        again = RTO
        while self.loss and again < RTO * 2**LOST_MOST and random.random() < self.loss:
            late, again = late + again, again * 2
        return max(0.0, late)


@dataclass
class Counts:
    """What has passed so far."""

    connections: int = 0
    refused: int = 0
    bytes_up: int = 0
    bytes_down: int = 0


@dataclass
class Fault:
    """What is wrong now, for every connection; and what has passed."""

    up: Direction
    down: Direction
    cuts: list[Cut]
    counts: Counts


class Connection:
    """One client's, and the one to the server that belongs to it."""

    def __init__(self, fault: Fault, speech: Speech, client: Any, server: Any) -> None:
        self._fault, self._speech = fault, speech
        self._reader, self._writer = client
        self._server_reader, self._server_writer = server
        self._transaction = ""  # what the client said in it so far
        self._swallowing: Cut | None = None  # the server has heard; its reply does not pass
        self._reply = b""

    async def serve(self) -> None:
        ways: list[Coroutine[Any, Any, None]] = [
            self._pass(self._reader, self._server_writer, self._fault.up, self._upwards),
            self._pass(self._server_reader, self._writer, self._fault.down, self._downwards),
        ]
        tasks = [asyncio.ensure_future(way) for way in ways]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for writer in (self._writer, self._server_writer):
            writer.close()

    def reset(self) -> None:
        for writer in (self._writer, self._server_writer):
            hang_up(writer)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Direction,
        may_pass: Callable[[bytes], bool],
    ) -> None:  # fmt: skip
        """Chunks in their order, each when it is due, unless it may not pass; ends when either end does."""
        due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_AHEAD)
        reading = asyncio.ensure_future(_read(reader, way, due))
        try:
            while True:
                at, chunk = await due.get()
                await asyncio.sleep(max(0.0, at - time.monotonic()))
                while way.hold:
                    await asyncio.sleep(0.01)
                if not chunk:
                    return
                if may_pass(chunk):
                    writer.write(chunk)
                    await writer.drain()
                    if way.rate:
                        await asyncio.sleep(len(chunk) / way.rate)
        except OSError:
            return
        finally:
            reading.cancel()

    def _upwards(self, chunk: bytes) -> bool:
        self._fault.counts.bytes_up += len(chunk)
        struck = [cut for phrase in self._speech.hear(chunk) if (cut := self._struck_at(phrase))]
        if not struck:
            return True
        cut = struck[0]
        cut.done += 1
        if not cut.heard:
            self.reset()
            return False
        self._swallowing = cut
        asyncio.get_running_loop().call_later(cut.patience, self.reset)
        return True

    def _struck_at(self, phrase: str) -> Cut | None:
        transaction = self._transaction = self._transaction + phrase
        if self._speech.ends(phrase):
            self._transaction = ""
        return next((cut for cut in self._fault.cuts if cut.strikes(phrase, transaction)), None)

    def _downwards(self, chunk: bytes) -> bool:
        self._fault.counts.bytes_down += len(chunk)
        if self._swallowing is None:
            return True
        self._reply += chunk
        if self._swallowing.reply in self._reply:
            self.reset()
        return False


async def _read(
    reader: asyncio.StreamReader, way: Direction, due: asyncio.Queue[tuple[float, bytes]]
) -> None:
    last = 0.0
    while True:
        try:
            chunk = await reader.read(CHUNK)
        except OSError:
            chunk = b""
        last = max(last, time.monotonic() + (way.late_by() if chunk else 0.0))
        await due.put((last, chunk))
        if not chunk:
            return


def hang_up(writer: asyncio.StreamWriter) -> None:
    """RST, instead of an orderly end."""
    with contextlib.suppress(OSError):
        if (connection := writer.get_extra_info("socket")) is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
