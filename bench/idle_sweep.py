"""An idle sweep beside little history and beside much: it should not notice.

    python bench/idle_sweep.py [--rows 10000 10000000] [--sweeps 1000] [--workers 10]

On a PostgreSQL of its own with its defaults. So many finished attempts are written by the server itself,
some workers are alive, and a sweep observes them: nothing is to be declared or closed. A heartbeat and a
claim with its outcome are timed beside it. Ten million rows take 5 GB of disk, and some minutes to write.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from crisper.core.model import Pulse
from crisper.engine.sweeper import Sweeper
from crisper.store.migrate import upgrade
from crisper.store.open import open_store
from tests.servers import PrivatePostgres
from tests.store.acting import Actor

AT_ONCE = 500_000

_HISTORY = """
INSERT INTO crisper_attempt (task_id, number, message_id, name, queue, incarnation, seq, state, acks_late,
    dispatched, redelivered, retries, tag, copy_refused, on_lost, loss_budget, received_at, started_at,
    finished_at, runtime_ms, closed_seq, counted, args_preview, kwargs_preview, message_size)
SELECT md5(n::text), 1, 'm' || n, 'shop.tasks.charge', 'celery', 'gone', 2 * n, 'succeeded', true,
    true, false, 0, 'tag', false, 'auto', 3, n, n, n + 40, 40, 2 * n + 1, false, '[42]', '{}', 200
FROM generate_series(%s::bigint, %s::bigint) AS n"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 10_000_000])
    parser.add_argument("--sweeps", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=10)
    options = parser.parse_args()
    with PrivatePostgres() as server:
        upgrade(server.url)
        store = open_store(server.url)
        workers = [Actor(store, hostname=f"w{n}", lease_ms=86_400_000) for n in range(options.workers)]
        sweeper, have, first = Sweeper(store, workers[0].id, lease=20.0), 0, 0.0
        for rows in options.rows:
            grow(server, have, rows)
            have = rows

            def sweep() -> None:
                swept = sweeper.tick(time.monotonic())
                assert not swept.did_anything

            told = [f"{rows} rows"]
            for what, do in (
                ("sweep", sweep),
                ("heartbeat", beat(workers[0])),
                ("task", task(workers[0], rows)),
            ):
                median, late = timed(do, options.sweeps)
                told.append(f"{what} p50 {median:.2f} p99 {late:.2f} ms")
                if what == "sweep":
                    first = first or median
                    told.append(f"({median / first:.2f} of the first)")
            print(", ".join(told), flush=True)
        store.close()
    return 0


def grow(server: PrivatePostgres, have: int, rows: int) -> None:
    with psycopg.connect(server.url.replace("+psycopg", ""), autocommit=True) as connection:
        for at in range(have, rows, AT_ONCE):
            connection.execute(_HISTORY, (at + 1, min(at + AT_ONCE, rows)))
        connection.execute("VACUUM ANALYZE crisper_attempt")
        connection.execute("CHECKPOINT")


def beat(worker: Actor) -> Callable[[], None]:
    def renew() -> None:
        assert worker.store.renew(worker.fence, Pulse(1, 1, 0, {}))

    return renew


def task(worker: Actor, series: int) -> Callable[[], None]:
    """A claim, and its outcome, in two transactions."""
    numbers = iter(range(1 << 40))

    def run() -> None:
        claim = worker.wants(f"task-{series}-{(n := next(numbers))}", f"message-{series}-{n}")
        worker.record(claim)
        worker.record(worker.finish(claim))

    return run


def timed(do: Callable[[], None], times: int) -> tuple[float, float]:
    """Milliseconds: the median, and what one in a hundred exceeds."""
    took = []
    for _ in range(times):
        at = time.perf_counter()
        do()
        took.append((time.perf_counter() - at) * 1000)
    took.sort()
    return took[times // 2], took[int(times * 0.99)]


if __name__ == "__main__":
    sys.exit(main())
