"""Workers of one host that write into one SQLite file: how much in all, how fairly, how long one waits.

    python bench/sqlite_contention.py [--processes 8] [--seconds 10] [--rounds 3] [--reader 2]

So many processes, each over a connection of its own, claim a task, then finish it, one transaction each, as
fast as it goes; beside them, with `--reader`, somebody who reads one snapshot for so many seconds, again and
again. `ours` waits for its turn as Crisper does; `handler` leaves it to SQLite's own busy handler. Fairness
is the least of the processes' counts over the greatest. Of the WAL's size: the greatest, and the last.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from crisper.store import migrate, sqlite
from crisper.store.open import open_store
from tests.store.acting import Actor

WAYS = ("ours", "handler")


class Run(NamedTuple):
    claims: float  # a second, in all
    fairness: float
    p50: float  # ms of a transaction, its wait for its turn included
    p99: float
    longest: float
    failed: int
    wal: float  # MB at most
    wal_last: float


def write(url: str, way: str, seconds: float) -> None:
    """One process: prints its claims, its failures, and the milliseconds of each transaction."""
    if way == "handler":
        sqlite.BUSY_SECONDS = sqlite.TURN_SECONDS
    me, took, claims, failed = Actor(open_store(url)), [], 0, 0
    print("ready", flush=True)
    sys.stdin.readline()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        wanted = me.wants(f"{me.id}-{claims}", f"{me.id}-{claims}")
        for record in (wanted, me.finish(wanted)):
            at = time.perf_counter()
            try:
                me.record(record)
            except sqlite.RegistryUnreachable:
                failed += 1
            took.append((time.perf_counter() - at) * 1000)
        claims += 1
    json.dump([claims, failed, took], sys.stdout)


def run(way: str, options: argparse.Namespace) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "registry.db")
        migrate.upgrade(f"sqlite:///{path}")
        keeps = sqlite.connect(path)  # the last connection that closes removes the WAL
        writers = [writer(way, path, options.seconds) for _ in range(options.processes)]
        for one in writers:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        watch = Watch(path, options.reader)
        try:
            for one in writers:
                assert one.stdin is not None
                one.stdin.write("go\n")
                one.stdin.flush()
            told = [json.loads(one.communicate()[0]) for one in writers]
        finally:
            wal = watch.stop()
        keeps.close()
    counts = [claims for claims, *_ in told]
    took = sorted(ms for *_, each in told for ms in each)
    return Run(
        sum(counts) / options.seconds, min(counts) / max(counts), took[len(took) // 2],
        took[int(len(took) * 0.99)], took[-1], sum(failed for _, failed, _ in told), *wal,
    )  # fmt: skip


def writer(way: str, path: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--writer", way, f"sqlite:///{path}", "--seconds", str(seconds)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


class Watch:
    """Looks at the WAL's size, and reads snapshots of so many seconds."""

    def __init__(self, path: Path, reader: float) -> None:
        self._wal, self._largest, self._over = path.with_name(path.name + "-wal"), 0.0, threading.Event()
        self._threads = [threading.Thread(target=self._look)]
        if reader:
            self._threads.append(threading.Thread(target=self._read, args=(path, reader)))
        for thread in self._threads:
            thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.02):
            self._largest = max(self._largest, self._mb())

    def _mb(self) -> float:
        return self._wal.stat().st_size / 1e6 if self._wal.exists() else 0.0

    def _read(self, path: Path, seconds: float) -> None:
        connection = sqlite3.connect(path, isolation_level=None)
        while not self._over.wait(seconds):
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM crisper_attempt").fetchall()
            self._over.wait(seconds)
            connection.execute("COMMIT")
        connection.close()

    def stop(self) -> tuple[float, float]:
        last = self._mb()
        self._over.set()
        for thread in self._threads:
            thread.join()
        return self._largest, last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reader", type=float, default=0.0, help="seconds of one snapshot")
    parser.add_argument("--writer", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.writer:
        way, url = options.writer
        write(url, way, options.seconds)
        return
    runs = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way in WAYS:
            runs[way].append(run(way, options))
    print(
        f"{options.processes} processes, {options.rounds} rounds of {options.seconds:g} s,"
        f" snapshots of {options.reader:g} s, {os.cpu_count()} cores; medians"
    )
    for way, each in runs.items():
        median = Run(*(statistics.median(values) for values in zip(*each, strict=True)))
        print(
            f"{way:8} {median.claims:6.0f} claims/s  fairness {median.fairness:.2f}  a transaction p50"
            f" {median.p50:.1f} ms, p99 {median.p99:.0f} ms, longest {median.longest:.0f} ms"
            f"  failed {sum(one.failed for one in each)}"
            f"  WAL {median.wal:.1f} MB, {median.wal_last:.1f} at last"
        )


if __name__ == "__main__":
    main()
