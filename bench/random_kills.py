"""SIGKILLs at random moments over late and early tasks and chords: what became of every task.

    python bench/random_kills.py [--kills 200] [--tasks 2000] [--broker redis rabbitmq] [--seed 1] [--plain]

Four prefork workers of two processes each. A victim is a worker's parent, one of its pool processes, or
parent and recorder together; its slot gets another worker of the same name at once, as from a supervisor.
Results go to Redis, for its chords. Everything is counted from the ledger that the tasks write and from
the results. `--plain` does the same on Celery alone. Ends with 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from crisper.store.migrate import upgrade
from tests.acceptance.random_kills import Figures, kill_at_random
from tests.fleet import Fleet
from tests.places import rabbitmq_server
from tests.servers import PrivatePostgres, PrivateRedis


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--broker", nargs="+", choices=("redis", "rabbitmq"), default=["redis", "rabbitmq"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="Celery alone, for comparison.")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="Leave ledgers and logs there.")
    options = parser.parse_args()
    kept = True
    for name in options.broker:
        figures = once(name, options)
        show(name, figures, plain=options.plain)
        kept = kept and figures.kept_every_promise
    return 0 if kept else 1


def once(name: str, options: argparse.Namespace) -> Figures:
    # Celery's settings are as in the tests. A task may be lost often here, and none is to go to quarantine.
    os.environ |= {"FLEET_TELLS_STORED": "1", "CRISPER_LOSS_BUDGET": "20"}
    with (
        PrivateRedis() as redis,
        PrivatePostgres() as postgres,
        broker(name, redis.url) as url,
        tempfile.TemporaryDirectory() as temporary,
    ):
        folder = Path(temporary) if options.keep is None else options.keep / name
        upgrade(postgres.url)
        backend = redis.url.removesuffix("/0") + "/1"
        fleet = Fleet(folder, broker=url, backend=backend, registry=postgres.url, plain=options.plain)
        try:
            return kill_at_random(fleet, options.kills, options.tasks, seed=options.seed, plain=options.plain)
        finally:
            fleet.close()


@contextlib.contextmanager
def broker(name: str, redis_url: str) -> Iterator[str]:
    if name == "redis":
        yield redis_url
    else:
        with rabbitmq_server() as server, server.vhost() as url:
            yield url


def show(name: str, figures: Figures, *, plain: bool) -> None:
    print(f"\n{name}, {'Celery alone' if plain else 'with Crisper'}")
    for field in dataclasses.fields(figures):
        value = getattr(figures, field.name)
        if field.name != "details":
            mark = "  BROKEN" if field.name in figures.BROKEN and value and not plain else ""
            print(f"  {field.name.replace('_', ' '):<36} {value:>8}{mark}")
    for line in [] if plain else figures.details[:50]:
        print(f"    {line}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
