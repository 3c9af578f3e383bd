"""No-op tasks per second, with and without Crisper, in alternation in one run.

    python bench/throughput.py --redis redis://127.0.0.1:6379 --registry postgresql+psycopg://… [--rounds 3]

One prefork worker of two processes, late acks. The queue is filled while nobody
consumes it; the clock runs from the moment the worker is told to consume until
queue and `unacked` are empty. CPU seconds are of the worker's parent.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import redis

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.fleet import Fleet, Worker, wait_for

QUEUE = "bench"


def measure(
    fleet: Fleet, worker: Worker, client: redis.Redis, tasks: int, sleeps: float = 0.0
) -> tuple[float, float]:
    """Tasks per second, and CPU milliseconds of the parent per task. `sleeps`: each, in seconds."""
    with fleet.app.producer_pool.acquire() as producer:
        for key in range(tasks):
            fleet.send("nap" if sleeps else "noop", sleeps or key, queue=QUEUE, producer=producer)
    before, began = cpu_seconds(worker.pid), time.perf_counter()
    fleet.app.control.add_consumer(QUEUE, destination=[f"{worker.name}@test"])
    wait_for("all consumed", lambda: not client.llen(QUEUE) and not client.hlen("unacked"), 120)
    seconds = time.perf_counter() - began
    cpu = (cpu_seconds(worker.pid) - before) / tasks * 1000
    fleet.app.control.cancel_consumer(QUEUE, destination=[f"{worker.name}@test"], reply=True)
    return tasks / seconds, cpu


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def round_of(plain: bool, options: argparse.Namespace) -> tuple[float, float]:
    broker = f"{options.redis}/11"
    with redis.Redis.from_url(broker) as client, tempfile.TemporaryDirectory() as folder:
        client.flushdb()
        fleet = Fleet(
            Path(folder), broker=broker, backend=f"{options.redis}/12",
            registry=options.registry, plain=plain, recording=options.recording,
        )  # fmt: skip
        try:
            worker = fleet.worker("bench", "-l", "WARNING", wait=False)
            wait_for("answers", lambda: fleet.app.control.ping(timeout=1), 30)
            measure(fleet, worker, client, options.tasks // 5)
            return measure(fleet, worker, client, options.tasks)
        finally:
            fleet.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--redis", default="redis://127.0.0.1:6379")
    parser.add_argument("--registry", default="", help="default: a SQLite file")
    parser.add_argument("--recording", default="strict")
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.registry:
        from crisper.store.migrate import upgrade

        upgrade(options.registry)
    ratios, added = [], []
    for number in range(options.rounds):
        plain, plain_cpu = round_of(True, options)
        ours, our_cpu = round_of(False, options)
        ratios.append(ours / plain)
        added.append(our_cpu - plain_cpu)
        print(
            f"round {number + 1}: plain {plain:7.0f}/s  crisper {ours:7.0f}/s  ratio {ratios[-1]:.3f}"
            f"  parent CPU {plain_cpu:.3f} -> {our_cpu:.3f} ms/task",
            flush=True,
        )
    print(
        f"throughput against plain Celery: median {statistics.median(ratios):.3f}"
        f" (min {min(ratios):.3f}, max {max(ratios):.3f});"
        f" added in the parent: {statistics.median(added):.3f} ms of CPU per task"
    )


if __name__ == "__main__":
    main()
