"""A TCP proxy that harms what passes: between a worker and its registry, or its broker.

    with FaultProxy(("127.0.0.1", 5432)) as proxy:
        proxy.address_in(url)     # the same URL, by way of the proxy
        proxy.up.delay = 0.2      # seconds, towards the server
        proxy.down.hold = True    # a black hole for what the server says
        proxy.heal()              # what was held arrives now, as TCP would have it

Faults may be set from any thread, at any time. By hand, with faults read from the standard input:

    python -m tests.faults.proxy 127.0.0.1:5432
    > up.delay 0.2
    > reset
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, fields
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

from tests.faults.cuts import Cut, Raw, Speech

HOST = "127.0.0.1"
#: A lost segment is sent again after this long, then after twice as long (Linux' least RTO, RFC 6298).
RTO = 0.2
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
        while self.loss and random.random() < self.loss:
            late, again = late + again, again * 2
        return max(0.0, late)


@dataclass
class Counts:
    """What has passed so far."""

    connections: int = 0
    refused: int = 0
    bytes_up: int = 0
    bytes_down: int = 0


class FaultProxy:
    """Listens on a port of its own, from a thread of its own. `upstream` may be changed: a failover."""

    def __init__(self, upstream: tuple[str, int], speech: Callable[[], Speech] = Raw) -> None:
        self.upstream, self.speech = upstream, speech
        self.up, self.down = Direction(), Direction()
        self.refuse = False  # new connections are reset
        self.counts = Counts()
        self._cuts: list[Cut] = []
        self._open: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._socket = socket.create_server((HOST, 0), backlog=256)
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)
        self._thread.start()

    def address_in(self, url: str) -> str:
        """The URL with the proxy in the place of its server."""
        parts = urlsplit(url)
        user = parts.netloc.rpartition("@")[0]
        netloc = f"{user}@{HOST}:{self.port}" if user else f"{HOST}:{self.port}"
        return urlunsplit(parts._replace(netloc=netloc))

    # -- faults ---------------------------------------------------------------

    def reset(self) -> None:
        """RST to both ends of every open connection."""
        self._in_loop(lambda: [one.reset() for one in list(self._open)])

    def cut(self, cut: Cut) -> Cut:
        """From now on, on connections that are open already too, beside others; it counts its own cuts."""
        self._cuts.append(cut)
        return cut

    def hold(self, held: bool = True) -> None:
        """A black hole in both directions."""
        self.up.hold = self.down.hold = held

    def heal(self) -> None:
        """No fault any more; connections that live go on."""
        self.up.heal()
        self.down.heal()
        self.refuse, self._cuts = False, []

    def connections(self) -> int:
        return len(self._open)

    # -- its own life ---------------------------------------------------------

    def close(self) -> None:
        if not self._loop.is_closed():
            self.reset()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._socket.close()
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _in_loop(self, act: Callable[[], Any]) -> None:
        """Do it there, and return once it is done."""
        done = threading.Event()

        def run() -> None:
            act()
            done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(10), "the proxy hangs"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(asyncio.start_server(self._serve, sock=self._socket))
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.counts.connections += 1
        try:
            if self.refuse:
                raise ConnectionRefusedError
            beyond = await asyncio.open_connection(*self.upstream)
        except OSError:
            self.counts.refused += 1
            _reset(writer)
            return
        connection = _Connection(self, (reader, writer), beyond)
        self._open.add(connection)
        try:
            await connection.serve()
        except asyncio.CancelledError:
            pass  # the proxy is closed; nobody waits for us
        finally:
            self._open.discard(connection)


class _Connection:
    """One client's, and the one to the server that belongs to it."""

    def __init__(self, proxy: FaultProxy, client: Any, server: Any) -> None:
        self._proxy = proxy
        self._reader, self._writer = client
        self._server_reader, self._server_writer = server
        self._speech = proxy.speech()
        self._transaction = ""  # what the client said in it so far
        self._swallowing: Cut | None = None  # the server has heard; its reply does not pass
        self._reply = b""

    async def serve(self) -> None:
        proxy = self._proxy
        ways: list[Coroutine[Any, Any, None]] = [
            self._pass(self._reader, self._server_writer, proxy.up, self._upwards),
            self._pass(self._server_reader, self._writer, proxy.down, self._downwards),
        ]
        tasks = [asyncio.ensure_future(way) for way in ways]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for writer in (self._writer, self._server_writer):
            writer.close()

    def reset(self) -> None:
        for writer in (self._writer, self._server_writer):
            _reset(writer)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Direction,
        look: Callable[[bytes], Coroutine[Any, Any, bool]],
    ) -> None:  # fmt: skip
        """Chunks in their order, each when it is due; ends when either end does."""
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
                if await look(chunk):
                    writer.write(chunk)
                    await writer.drain()
                    if way.rate:
                        await asyncio.sleep(len(chunk) / way.rate)
        except OSError:
            return
        finally:
            reading.cancel()

    async def _upwards(self, chunk: bytes) -> bool:
        """Whether it may pass."""
        self._proxy.counts.bytes_up += len(chunk)
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
        return next((cut for cut in self._proxy._cuts if cut.strikes(phrase, transaction)), None)

    async def _downwards(self, chunk: bytes) -> bool:
        self._proxy.counts.bytes_down += len(chunk)
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


def _reset(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        if (connection := writer.get_extra_info("socket")) is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


# -- by hand ------------------------------------------------------------------


def order(proxy: FaultProxy, line: str) -> None:
    """`up.delay 0.2`, `down.hold 1`, `refuse 1`, `reset`, `heal`; raises ValueError for anything else."""
    words = line.split()
    if words in (["reset"], ["heal"]):
        getattr(proxy, words[0])()
    elif len(words) == 2 and words[0] == "refuse":
        proxy.refuse = bool(float(words[1]))
    elif len(words) == 2 and words[0].partition(".")[0] in ("up", "down"):
        side, _, name = words[0].partition(".")
        way = getattr(proxy, side)
        if not hasattr(way, name):
            raise ValueError(f"no such fault: {name}")
        setattr(way, name, type(getattr(way, name))(float(words[1])))
    elif words:
        raise ValueError(f"not understood: {line}")


def main() -> None:
    host, _, port = sys.argv[1].rpartition(":")
    with FaultProxy((host, int(port))) as proxy:
        print(f"{HOST}:{proxy.port} -> {host}:{port}", flush=True)
        for line in sys.stdin:
            try:
                order(proxy, line)
            except ValueError as exc:
                print(exc, flush=True)
            print(proxy.counts, flush=True)


if __name__ == "__main__":
    main()
