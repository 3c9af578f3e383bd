"""What putting every publish on record costs the publisher, in alternation in one run.

    python bench/publishing.py [--redis URL] [--registry URL] [--messages 3000] [--rounds 5]

One process publishes no-op tasks to Redis over one connection: plain Celery, Crisper without
tracking, in the background (`async`), and before each message leaves (`sync`). Seconds per message and CPU
seconds of the process, as ratios of plain Celery's in the same round; `drained`: how long after the last
publish the record was complete.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import redis

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from crisper.store.migrate import upgrade
from tests.fleet import Fleet, wait_for

MODES = ("plain", "off", "async", "sync")


class Cost(NamedTuple):
    """Of one message, in microseconds; and seconds until the record was complete."""

    elapsed: float
    cpu: float
    drained: float


def cost(mode: str, options: argparse.Namespace) -> Cost:
    broker = f"{options.redis}/11"
    with redis.Redis.from_url(broker) as client, tempfile.TemporaryDirectory() as folder:
        client.flushdb()
        fleet = Fleet(Path(folder), broker=broker, registry=options.registry, plain=mode == "plain")
        upgrade(fleet.registry_url)
        fleet.app.conf.update({} if mode == "plain" else {"crisper_track_publish": mode})
        try:
            return published(fleet, mode, options.messages)
        finally:
            fleet.close()
            client.flushdb()


def published(fleet: Fleet, mode: str, messages: int) -> Cost:
    with fleet.app.producer_pool.acquire() as producer:
        fleet.send("noop", 0, producer=producer)  # connects to everything
        recorded(fleet, mode, 1)
        began, cpu = time.perf_counter(), time.process_time()
        for key in range(messages):
            fleet.send("noop", key, producer=producer)
        elapsed = time.perf_counter() - began
        recorded(fleet, mode, messages + 1)
        drained, cpu = time.perf_counter() - began - elapsed, time.process_time() - cpu
    return Cost(elapsed / messages * 1e6, cpu / messages * 1e6, drained)


def recorded(fleet: Fleet, mode: str, messages: int) -> None:
    if mode in ("async", "sync"):
        count = "SELECT count(*) FROM crisper_publish"
        wait_for("on record", lambda: fleet.rows(count)[0][0] == messages, 60)
        if messages > 1:
            fleet.rows("DELETE FROM crisper_publish RETURNING message_id")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--redis", default="redis://127.0.0.1:6379")
    parser.add_argument("--registry", default="", help="default: a SQLite file")
    parser.add_argument("--messages", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rounds = [{mode: cost(mode, options) for mode in MODES} for _ in range(options.rounds)]
    print(f"{options.messages} messages, {options.rounds} rounds, {os.cpu_count()} cores; median (range)")
    for mode in MODES:
        elapsed = [each[mode].elapsed / each["plain"].elapsed for each in rounds]
        cpu = [each[mode].cpu / each["plain"].cpu for each in rounds]
        print(
            f"{mode:6} {statistics.median(each[mode].elapsed for each in rounds):7.0f} us"
            f"  time {spread(elapsed)}  cpu {spread(cpu)}"
            f"  drained {statistics.median(each[mode].drained for each in rounds):.2f} s"
        )


def spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
