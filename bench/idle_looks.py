"""What it costs that an idle worker looks whether it is silent: connections and CPU, on Redis and RabbitMQ.

    python bench/idle_looks.py [--seconds 60] [--path DIR]

One idle prefork worker on a server of its own looks once a second (`crisper_silent_after` 4 s, a tenth of
the default), and one that does not look within that time. `--path`: of another Crisper's sources, to compare.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import redis

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.fleet import Fleet, wait_for
from tests.servers import PrivateRabbitMQ, PrivateRedis

TICKS = os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--path", default="")
    options = parser.parse_args()
    print(f"{'broker':<10} {'looks':<12} {'connections opened':>18} {'CPU of its parent, ms/s':>24}")
    with PrivateRedis() as server:
        for after in (4, 86_400):
            told = idle(server.url, lambda: opened_at_redis(server), after, options.seconds, options.path)
            _print("Redis", after, *told)
    with PrivateRabbitMQ() as node:
        for after in (4, 86_400):
            told = idle(node.url, lambda: opened_at_rabbitmq(node), after, options.seconds, options.path)
            _print("RabbitMQ", after, *told)
    return 0


def _print(broker: str, after: float, connections: int, cpu: float) -> None:
    print(f"{broker:<10} {'every second' if after == 4 else 'none':<12} {connections:>18} {cpu:>24.1f}")


def idle(url: str, opened: Callable[[], int], after: float, seconds: float, path: str) -> tuple[int, float]:
    """Connections that were opened in that time, and milliseconds of CPU a second."""
    with tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(Path(folder), broker=url, silent_after=after)
        if path:
            fleet.environment["PYTHONPATH"] += f":{path}"
        try:
            worker = fleet.worker("idle", "-c", "1")
            sent = fleet.send("noop")
            wait_for("it works", lambda: fleet.attempts(sent.id) == [(1, "succeeded")])
            time.sleep(5)  # what belongs to its start
            before, cpu = opened(), _cpu_ms(worker.pid)
            time.sleep(seconds)
            return opened() - before, (_cpu_ms(worker.pid) - cpu) / seconds
        finally:
            fleet.close()


def opened_at_redis(server: PrivateRedis) -> int:
    with redis.Redis.from_url(server.url) as client:
        return int(client.info("stats")["total_connections_received"]) - _asked()


def opened_at_rabbitmq(node: PrivateRabbitMQ) -> int:
    log = "".join(path.read_text(errors="replace") for path in (node.folder / "log").glob("*.log"))
    return log.count("accepting AMQP connection")


_questions = 0


def _asked() -> int:
    """How often we asked, on a connection of our own each time."""
    global _questions
    _questions += 1
    return _questions


def _cpu_ms(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / TICKS


if __name__ == "__main__":
    sys.exit(main())
