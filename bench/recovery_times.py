"""Seconds from SIGKILL until every task of the dead worker, running or prefetched, runs again.

    python bench/recovery_times.py [--redis URL] [--rabbitmq URL] [--repeat 3] [--how parent both container]

A second worker with room for all is alive. `parent`: the worker's parent alone is
killed. `both`: its recorder too, so that a neighbour on the host must find out.
`container`: all that its pid namespace held, so that only its silence tells (needs root).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

import redis

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.acceptance.containers import container, destroy, entered
from tests.fleet import Fleet, wait_for


def once(broker: str, backend: str, how: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(Path(folder), broker=broker, backend=backend)
        try:
            inside = container() if how == "container" else []
            first = fleet.worker("first", inside=inside, wait=not inside)
            if inside:
                entered(first)
            sent = {fleet.send("late", key, 30 if how == "container" else 8).id for key in range(4)}
            wait_for("two run, two are prefetched", lambda: len(fleet.starts()) == 2)
            wait_for("all on record", lambda: fleet.open_attempts() == 4)
            fleet.worker("second", "-c", "4")
            if how == "both":
                os.kill(first.recorder(), signal.SIGKILL)
            killed_at = destroy(first) if inside else first.kill()
            seconds = 60 if inside else 20
            wait_for(
                "all again", lambda: sent == {x.task_id for x in fleet.starts() if x.at > killed_at}, seconds
            )
            return max(line.at - killed_at for line in fleet.starts() if line.at > killed_at)
        finally:
            fleet.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--redis", default="redis://127.0.0.1:6379")
    parser.add_argument("--rabbitmq", default="amqp://guest:guest@127.0.0.1:5672//")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--how", nargs="+", default=["parent", "both", "container"])
    options = parser.parse_args()
    brokers = {
        "filesystem": ("filesystem://", ""),
        "redis": (f"{options.redis}/13", f"{options.redis}/14"),
        "rabbitmq": (options.rabbitmq, ""),
    }
    for how in options.how:
        for name, (broker, backend) in brokers.items():
            if name == "redis":
                with redis.Redis.from_url(broker) as client:
                    client.flushdb()
            times = sorted(once(broker, backend, how) for _ in range(options.repeat))
            print(f"{how:<9} {name:<11} " + "  ".join(f"{seconds:.2f}" for seconds in times), flush=True)


if __name__ == "__main__":
    main()
