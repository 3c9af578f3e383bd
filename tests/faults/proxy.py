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
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

from tests.faults.connection import Connection, Counts, Direction, Fault, hang_up
from tests.faults.cuts import Cut, Raw, Speech

HOST = "127.0.0.1"


class FaultProxy:
    """Listens on a port of its own, from a thread of its own. `upstream` may be changed: a failover."""

    def __init__(self, upstream: tuple[str, int], speech: Callable[[], Speech] = Raw) -> None:
        self.upstream, self.speech = upstream, speech
        self.up, self.down, self.counts = Direction(), Direction(), Counts()
        self.refuse = False  # new connections are reset
        self._fault = Fault(self.up, self.down, [], self.counts)
        self._open: set[Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._socket = socket.create_server((HOST, 0), backlog=256)
        self.port: int = self._socket.getsockname()[1]
        self._turns = threading.Event()
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
        self._fault.cuts.append(cut)
        return cut

    def hold(self, held: bool = True) -> None:
        """A black hole in both directions."""
        self.up.hold = self.down.hold = held

    def hold_open_ones(self) -> None:
        """A black hole for the connections that are open now, for good; new ones pass."""
        self.hold()
        self.up = self._fault.up = Direction()
        self.down = self._fault.down = Direction()

    def heal(self) -> None:
        """No fault any more; connections that live go on."""
        self.up.heal()
        self.down.heal()
        self.refuse = False
        self._fault.cuts.clear()

    def connections(self) -> int:
        return len(self._open)

    # -- its own life ---------------------------------------------------------

    def close(self) -> None:
        if not self._loop.is_closed():
            self.reset()
            self._turns.wait(10)  # else it would be stopped before it runs for ever
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
        self._loop.call_soon(self._turns.set)
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
            hang_up(writer)
            return
        connection = Connection(self._fault, self.speech(), (reader, writer), beyond)
        self._open.add(connection)
        try:
            await connection.serve()
        except asyncio.CancelledError:
            pass  # the proxy is closed; nobody waits for us
        finally:
            self._open.discard(connection)


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
