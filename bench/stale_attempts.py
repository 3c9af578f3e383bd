"""Ten thousand stale attempts of dead workers: their sweep, its memory, and what live workers notice.

    python bench/stale_attempts.py [--count 10000] [--dead 10] [--registry URL] [--redis redis://127.0.0.1:6379]

First the sweeps alone, in a process of their own (each closes 20,000 at most), on `--registry` (an empty one;
default: a PostgreSQL of its own; `sqlite`: a SQLite file).
Then the whole way: a worker on Redis claims that many late-acked tasks and is killed, while another one
runs no-op tasks of its own queue; counted are those per second before the kill, and while the attempts
are recovered. `--without-workers` leaves that out.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path

import redis

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from crisper.store.migrate import upgrade
from tests.engine.stale import leave_open, sweep
from tests.fleet import Fleet, wait_for
from tests.servers import PrivatePostgres

OWN, STALE = "own", "stale"
PUBLISH_AHEAD = 2_000


def alone(registry: str, count: int, dead: int) -> None:
    upgrade(registry)
    leave_open(registry, count, dead)
    swept = sweep(registry, most=1 + count // 1000)
    print(f"stale attempts, of so many workers  {count}, {dead}")
    print("declared, closed, by so many sweeps {declared}, {closed}, {sweeps}".format(**swept))
    per_second = swept["closed"] / swept["seconds"]
    print(f"seconds, attempts per second        {swept['seconds']:.2f}, {per_second:.0f}")
    memory = [swept[key] for key in ("rss_before", "rss_after", "rss_max")]
    print("RSS before, after, max              {:.1f}, {:.1f}, {:.1f} MB".format(*memory))


class Load:
    """No-op tasks in the live worker's own queue, always enough of them."""

    def __init__(self, fleet: Fleet, client: redis.Redis) -> None:
        self.fleet, self.client, self.sent = fleet, client, 0
        self.producer = fleet.app.amqp.Producer(fleet.app.connection_for_write())

    def top_up(self) -> None:
        for _ in range(PUBLISH_AHEAD - int(self.client.llen(OWN))):
            self.fleet.send("noop", self.sent, queue=OWN, producer=self.producer)
            self.sent += 1

    def done(self) -> int:
        return self.sent - int(self.client.llen(OWN))

    def per_second(self, until: float | None = None, condition: object = None) -> float:
        """Taken from the queue per second, until the moment, or as long as the condition holds."""
        self.top_up()
        began, before = time.perf_counter(), self.done()
        while time.perf_counter() < (until or 1e18) and (condition is None or condition()):  # type: ignore[operator]
            time.sleep(0.1)
            self.top_up()
        return (self.done() - before) / (time.perf_counter() - began)


def with_live_workers(options: argparse.Namespace) -> None:
    broker, count = f"{options.redis}/11", options.count
    with redis.Redis.from_url(broker) as client, tempfile.TemporaryDirectory() as folder:
        client.flushdb()
        fleet = Fleet(
            Path(folder), broker=broker, backend=f"{options.redis}/12", registry=options.registry,
        )  # fmt: skip
        try:
            live = fleet.worker("live", "-Q", f"{OWN},{STALE}", "-l", "WARNING", wait=False)
            wait_for("live answers", lambda: fleet.app.control.ping(timeout=1), 30)
            fleet.app.control.cancel_consumer(STALE, reply=True)
            doomed = fleet.worker(
                "doomed", "-Q", STALE, "-c", "1", "-l", "WARNING", wait=False, FLEET_PREFETCH=str(count)
            )
            wait_for("doomed answers", lambda: len(fleet.app.control.ping(timeout=1)) == 2, 30)
            fleet.send("late", 0, 3600, queue=STALE, expires=7200)
            with fleet.app.producer_pool.acquire() as producer:
                for key in range(count - 1):
                    fleet.send("noop", key, queue=STALE, producer=producer)
            mine = "SELECT count(*) FROM crisper_attempt WHERE queue = ? AND state = ?"
            wait_for("all claimed", lambda: fleet.rows(mine, STALE, "claimed")[0][0] >= count - 1, 120)
            load = Load(fleet, client)
            load.per_second(until=time.perf_counter() + 3)
            before = load.per_second(until=time.perf_counter() + options.seconds)
            doomed.kill()
            began = time.perf_counter()
            wait_for("lost", lambda: fleet.rows(mine, STALE, "lost")[0][0] == count, 60)
            closed = time.perf_counter() - began
            under_way = (
                "SELECT count(*) FROM crisper_recovery r JOIN crisper_attempt a"
                " ON a.task_id = r.task_id AND a.number = r.number"
                " WHERE a.queue = ? AND r.state IN ('pending', 'decided')"
            )
            last, looked = [count], [0.0]

            def recovering() -> bool:
                if time.perf_counter() - looked[0] > 1:
                    last[0], looked[0] = fleet.rows(under_way, STALE)[0][0], time.perf_counter()
                return last[0] > 0

            during = load.per_second(condition=recovering)
            seconds = time.perf_counter() - began
            print(f"all of them lost after the kill     {closed:.2f} s")
            print(f"all of them recovered               {seconds:.1f} s ({count / seconds:.0f} per second)")
            print(f"live worker's tasks per second      {before:.0f} before, {during:.0f} meanwhile")
            print(f"ratio                               {during / before:.2f}")
            live.kill()
        finally:
            fleet.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--dead", type=int, default=1, help="workers that left them, in the sweep alone")
    parser.add_argument("--registry", default="", help="default: a PostgreSQL of its own")
    parser.add_argument("--redis", default="redis://127.0.0.1:6379")
    parser.add_argument("--seconds", type=float, default=10.0, help="of measuring before the kill")
    parser.add_argument("--without-workers", action="store_true")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if options.registry == "sqlite":
            options.registry = f"sqlite:///{stack.enter_context(tempfile.TemporaryDirectory())}/registry.db"
        elif not options.registry:
            options.registry = stack.enter_context(PrivatePostgres()).url
        alone(options.registry, options.count, options.dead)
        if not options.without_workers:
            with_live_workers(options)


if __name__ == "__main__":
    main()
