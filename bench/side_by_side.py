"""No-op tasks per second with Crisper and with what people use instead, each against plain Celery beside it.

    python bench/side_by_side.py [--rounds 5] [--tasks 4000] [--seconds 0] [--commit-ms 0] [--only NAME …]

One prefork worker of two processes, late acks, on a Redis of its own; registries, results and tables of
the others on one PostgreSQL of its own, with its defaults. In each round every way has its turn, plain Celery
first. The queue is filled while nobody consumes it; the clock runs from the moment the worker is told to
consume until queue and `unacked` are empty. `--seconds`: how long each task sleeps; `--commit-ms`: how much
longer each commit takes on the disk. The worker's prefetch is 4 times its processes. django-celery-results
is left out where it is not installed (`uv sync --group bench`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

import psycopg
import redis

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.throughput import cpu_seconds, measure
from crisper.store.migrate import upgrade
from tests.faults.postgres import FaultyPostgres
from tests.fleet import ROOT, Fleet, Worker, children_of, wait_for
from tests.servers import PrivateRedis


@dataclass(frozen=True)
class Way:
    """How tasks are put on record."""

    plain: bool = True  # without Crisper
    recording: str = "strict"
    registry: bool = False  # PostgreSQL; otherwise a SQLite file
    arguments: tuple[str, ...] = ()
    rival: str = ""
    results: bool = False  # in PostgreSQL
    conf: dict[str, object] = field(default_factory=dict)


PLAIN = "plain Celery"
WAYS = {
    PLAIN: Way(),
    "Crisper, strict, PostgreSQL": Way(plain=False, registry=True),
    "Crisper, relaxed, PostgreSQL": Way(plain=False, registry=True, recording="relaxed"),
    "Crisper, strict, SQLite": Way(plain=False),
    "task events (-E)": Way(arguments=("-E",)),
    "SQL result backend, track_started": Way(results=True, conf={"task_track_started": True}),
    "signal handlers in the children": Way(rival="handlers"),
    "django-celery-results, track_started": Way(
        rival="django", conf={"task_track_started": True, "result_backend": "django-db"}
    ),
}


class Figures(NamedTuple):
    """CPU is in ms per task."""

    per_second: float
    parent: float
    recorder: float
    children: float
    server: float  # PostgreSQL's


@contextmanager
def database(server: FaultyPostgres) -> Iterator[str]:
    """An empty one; its URL."""
    name = f"bench_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(server.owner_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield urlunsplit(urlsplit(server.owner_url)._replace(path=f"/{name}"))
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def spent(worker: Worker, postgres: FaultyPostgres) -> list[float]:
    """CPU seconds so far of the recorder, the pool's children, and the server with all its processes."""
    served = [postgres.process.pid, *children_of(postgres.process.pid)]
    return [sum(map(cpu_seconds, pids)) for pids in (worker.recorders(), worker.pool(), served)]


def turn(way: Way, postgres: FaultyPostgres, server: PrivateRedis, options: argparse.Namespace) -> Figures:
    broker, results = server.url, server.url.removesuffix("/0") + "/1"
    with (
        database(postgres) as url,
        redis.Redis.from_url(broker) as client,
        tempfile.TemporaryDirectory() as folder,
    ):
        client.flushall()
        if way.registry:
            upgrade(url)
        fleet = Fleet(
            Path(folder), broker=broker, backend=f"db+{url}" if way.results else results,
            registry=url if way.registry else "", plain=way.plain, recording=way.recording,
        )  # fmt: skip
        fleet.environment["FLEET_CONF"] = json.dumps(way.conf)
        if way.rival:
            fleet.module = "bench.rivals"
            fleet.environment |= {"RIVAL": way.rival, "RIVAL_DATABASE": url}
            prepare = [sys.executable, "-c", "from bench import rivals; rivals.prepare()"]
            subprocess.run(prepare, check=True, cwd=ROOT, env=fleet.environment)
        try:
            worker = fleet.worker("bench", "-l", "WARNING", *way.arguments, wait=False)
            wait_for("answers", lambda: fleet.app.control.ping(timeout=1), 30)
            measure(fleet, worker, client, options.tasks // 5, options.seconds)
            before = spent(worker, postgres)
            per_second, parent = measure(fleet, worker, client, options.tasks, options.seconds)
            others = (now - then for now, then in zip(spent(worker, postgres), before, strict=True))
            return Figures(per_second, parent, *(seconds / options.tasks * 1000 for seconds in others))
        finally:
            fleet.close()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=4000)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--commit-ms", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=[*WAYS], default=[*WAYS], metavar="NAME")
    options = parser.parse_args()
    ways = [name for name in WAYS if name == PLAIN or name in options.only]
    if find_spec("django_celery_results") is None:
        ways = [name for name in ways if WAYS[name].rival != "django"]
    found: dict[str, list[Figures]] = {name: [] for name in ways}
    shims = ("slowfsync",) if options.commit_ms else ()
    with (
        FaultyPostgres(*shims) as postgres,
        postgres.slow(options.commit_ms) if shims else nullcontext(),
        PrivateRedis() as server,
    ):
        for number in range(options.rounds):
            for name in ways:
                found[name].append(turn(WAYS[name], postgres, server, options))
                print(f"round {number + 1}: {name:<40} {found[name][-1].per_second:6.0f}/s", flush=True)
    print(f"\n{'':<40} against plain Celery      CPU added per task: parent, recorder, children, PostgreSQL")
    for name in ways:
        pairs = list(zip(found[name], found[PLAIN], strict=True))
        ratios = [one.per_second / plain.per_second for one, plain in pairs]
        added = (
            statistics.median(getattr(one, of) - getattr(plain, of) for one, plain in pairs)
            for of in Figures._fields[1:]
        )
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name:<40} {spread:<25} {', '.join(f'{ms * 1000:.0f}' for ms in added)} µs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
