"""What `progress()` costs the task that calls it for every row, and the registry.

python bench/progress.py [--calls 1000000]

A recorder's end of the socket is read by a thread that counts; no registry is asked: what a heartbeat carries
is one value for each worker, however often its attempts speak.
"""

from __future__ import annotations

import argparse
import socket
import threading
import time
from collections.abc import Callable

from celery import Celery
from celery.app.trace import build_tracer

import crisper
from crisper.celery.child import Child
from crisper.celery.link import Link


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=1_000_000)
    calls = parser.parse_args().calls
    link = Link("bench@host", dict)
    Child(link).connect()
    words: list[bytes] = []
    threading.Thread(target=_read, args=(link._sockets.words_read, words), daemon=True).start()

    def held() -> None:
        progress = crisper.current_attempt().progress
        for row in range(calls):
            progress(row, calls, "reads")

    def asked() -> None:
        for row in range(calls):
            crisper.current_attempt().progress(row, calls, "reads")

    def said() -> None:
        for _ in range(calls // 100):
            crisper.current_attempt().progress(1, 1, "reads")

    for what, body, count in (
        ("progress() of an attempt at hand, throttled", held, calls),
        ("current_attempt().progress(), throttled", asked, calls),
        ("one that is said", said, calls // 100),
    ):
        words.clear()
        seconds = _as_an_attempt(body)
        print(f"{what}: {seconds / count * 1e6:.2f} µs a call; {count:,} calls, {len(words)} datagrams")


def _read(reading: socket.socket, words: list[bytes]) -> None:
    while True:
        words.append(reading.recv(65536))


def _as_an_attempt(body: Callable[[], None]) -> float:
    """Seconds of the body, less than which nothing is timed."""
    app = Celery("bench", broker="memory://", set_as_current=False)
    task = app.task(shared=False, name=f"bench.{body.__name__}")(body)
    trace = build_tracer(task.name, task, app=app, eager=True, propagate=True)
    began = time.perf_counter()
    trace("a-task", (), {}, {"id": "a-task", "crisper": (1, 1, "")})
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
