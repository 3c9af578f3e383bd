"""What a task costs its worker's recorder, and the registry's server, at a steady rate.

    python bench/recorder.py [--rate 700] [--tasks 5000] [--rounds 3] [--threads] [--registry URL]

A real recorder over a private PostgreSQL, and in place of a worker a process that says of each task what a
prefork worker of no-op tasks says: a claim, and once it is on record a start, an outcome and the pool
process's own word; with `--threads` what one says whose tasks run in its own process. CPU is the recorder's
and that of its connections' server processes, from /proc, less what both take idle. Its profile:
`py-spy record -p PID`, with the pid that it prints.
"""

from __future__ import annotations

import argparse
import contextlib
import marshal
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psycopg

from bench.throughput import cpu_seconds
from bench.wire import BODY, HEADERS, PROPERTIES
from crisper.celery.install import Recording
from crisper.celery.link import Link, monotonic_ms
from crisper.core.model import Incarnation
from crisper.recorder import wire
from crisper.recorder.witness import boot_id, pid_namespace, process_start
from crisper.settings import load
from crisper.store.migrate import upgrade
from tests.servers import PrivatePostgres

NODE = "bench@here"
IDLE_SECONDS = 2.0


class Worker:
    """Says what a worker's parent and its pool processes would say."""

    def __init__(self, registry: str, folder: str, *, threads: bool) -> None:
        self.threads = threads
        pid = os.getpid()
        life = Incarnation(
            id=uuid.uuid4().hex, hostname=NODE, scope="bench", host="here", boot_id=boot_id(),
            pid_namespace=pid_namespace(), pid=pid, pid_start=process_start(pid) or 0,
            lease_ms=20_000, heartbeat_ms=4_000,
        )  # fmt: skip
        settings = load({"crisper_registry_url": registry, "crisper_journal_dir": folder})
        known = SimpleNamespace(
            settings=settings, incarnation=life, worker=SimpleNamespace(hostname=NODE),
            deliveries=SimpleNamespace(ready=True), _children=list,
        )  # fmt: skip
        self.link = known.link = Link(NODE, lambda: Recording._hello(known))  # type: ignore[arg-type]
        self.ended = 0
        self.link.start()
        while not self.link.generation:
            self.link.wait(0.1)
            self.link.receive()
        self.child = subprocess.Popen(["sleep", "3600"])
        self._word(wire.CHILD, self.child.pid)

    def close(self) -> None:
        self.child.kill()
        self.child.wait()
        self.link.close()

    def _word(self, *word: Any) -> None:
        self.link.words.send(marshal.dumps(word))

    def run(self, tasks: int, rate: float) -> float:
        """Tasks, one after the other at this rate; seconds until the last outcome is on record."""
        began, sent, ended, ticked = time.monotonic(), 0, self.ended, 0.0
        while self.ended - ended < tasks:
            now = time.monotonic()
            if now >= ticked:
                self.link.send((wire.TICK, monotonic_ms(), {}, True))
                ticked = now + 1
            while sent < tasks and began + sent / rate <= now:
                self._claim()
                sent += 1
            self.link.flush()
            due = began + sent / rate if sent < tasks else now + 1
            self.link.wait(max(0.0, min(due, ticked) - time.monotonic()))
            self.link.receive()
            self.link.run_waiting(contextlib.nullcontext)
        return time.monotonic() - began

    def _claim(self) -> None:
        seq, task = self.link.number(), str(uuid.uuid4())
        item = [
            wire.CLAIM, monotonic_ms(), seq, task, f"m{task}", True, "proj.tasks.add", "celery", 0,
            False, True, False, task, "resend", 3, BODY, "application/json", "utf-8",
            {**HEADERS, "id": task}, {**PROPERTIES, "correlation_id": task}, "", "celery", False,
        ]  # fmt: skip
        self.link.record(seq, item)
        self.link.when_durable(seq, lambda: self._runs(seq, task), lambda: None)

    def _runs(self, claim: int, task: str) -> None:
        pid = self.link.pid if self.threads else self.child.pid
        if not self.threads:
            self._word(wire.WORD, claim, task, "SUCCESS", 0)
        self.link.stand(claim, (wire.START, monotonic_ms(), claim, task, pid))
        seq = self.link.number()
        self.link.record(seq, (wire.FINISH, monotonic_ms(), seq, claim, task, "succeeded", None, 0))
        self.link.sit(claim)
        self.link.when_durable(seq, self._over, lambda: None)

    def _over(self) -> None:
        self.ended += 1


@contextlib.contextmanager
def servers(registry: str) -> Iterator[str]:
    if registry:
        yield registry
        return
    with PrivatePostgres() as server:
        yield server.url


def serving(url: str) -> list[int]:
    """The server's processes for the recorder's connections."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        rows = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchall()
    return [row[0] for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--registry", default="", help="default: a private PostgreSQL")
    parser.add_argument("--rate", type=float, default=700, help="tasks a second")
    parser.add_argument("--tasks", type=int, default=5000, help="in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", action="store_true")
    options = parser.parse_args()
    with servers(options.registry) as url, tempfile.TemporaryDirectory() as folder:
        upgrade(url)
        worker = Worker(url, folder, threads=options.threads)
        recorder, server = worker.link.recorder_pid, serving(url)
        print(f"recorder {recorder}, tasks at {options.rate:g} a second: microseconds of CPU per task")
        print(f"{'':<10}{'recorder':>10}{'server':>10}{'seconds':>10}")
        worker.run(500, options.rate)
        rounds = [measure(worker, recorder, server, options) for _ in range(options.rounds)]
        for name, of in ("median", statistics.median), ("least", min), ("most", max):
            here, there, seconds = (of(column) for column in zip(*rounds, strict=True))
            print(f"{name:<10}{here:>10.0f}{there:>10.0f}{seconds:>10.1f}")
        worker.close()


def measure(
    worker: Worker, recorder: int, server: list[int], options: argparse.Namespace
) -> tuple[float, float, float]:
    """Microseconds of CPU per task, in the recorder and in the server, and how long all took."""

    def cpu() -> tuple[float, float]:
        return cpu_seconds(recorder), sum(map(cpu_seconds, server))

    at_rest = cpu()
    time.sleep(IDLE_SECONDS)
    before = cpu()
    seconds = worker.run(options.tasks, options.rate)
    after = cpu()
    here, there = (
        (end - begin - (begin - rest) / IDLE_SECONDS * seconds) / options.tasks * 1e6
        for rest, begin, end in zip(at_rest, before, after, strict=True)
    )
    return here, there, seconds


if __name__ == "__main__":
    main()
