"""The registry is away for ten minutes while tasks go on: what each waited, and how all are on record after.

    python bench/registry_outage.py [--seconds 600] [--rate 200] [--workers 2] [--how crashed|hung|refused]

Prefork workers of four processes each on a Redis and a PostgreSQL of their own; tasks of 10 ms, late and
early acks in turn, at a steady rate, for a while before the outage, through it, and after it. Counted from
the tasks' own ledger and the registry. Ends with 1 if any task was lost, ran twice, or is not on record
once, or if any loss was declared.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.acceptance.harm import Steady, harm_to, waits
from tests.acceptance.site import Site, site
from tests.acceptance.watching import resident_mb
from tests.faults.postgres import FaultyPostgres
from tests.fleet import wait_for
from tests.servers import PrivateRedis

AROUND = 20.0  # seconds of the same load before the outage
ENDED = "SELECT count(*) FROM crisper_attempt WHERE state = 'succeeded'"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--how", choices=("crashed", "hung", "refused"), default="crashed")
    options = parser.parse_args()
    with (
        PrivateRedis() as redis,
        FaultyPostgres() as postgres,
        tempfile.TemporaryDirectory() as folder,
        site(Path(folder), postgres, broker=redis.url, backend=redis.url.removesuffix("/0") + "/1") as place,
    ):
        place.workers(options.workers, "-c", "4")
        return 0 if outage(place, options) else 1


@contextlib.contextmanager
def away(place: Site, how: str) -> Iterator[None]:
    if how == "crashed":
        place.postgres.crash()
        yield
        place.postgres.start()
    elif how == "hung":
        place.postgres.pause()
        yield
        place.postgres.resume()
    else:
        place.to_registry.refuse = True
        place.to_registry.reset()
        yield
        place.to_registry.heal()


def outage(place: Site, options: argparse.Namespace) -> bool:
    fleet = place.fleet
    with Steady(fleet, options.rate) as steady:
        time.sleep(AROUND)
        began = time.time()
        with away(place, options.how):
            time.sleep(max(0.0, began + options.seconds - time.time()))
            journal = sum(path.stat().st_size for path in (fleet.folder / "journal").rglob("*"))
            recorders = [resident_mb(worker.recorder()) for worker in fleet.workers]
        over = time.time()
        missing = sum(at < over for at in steady.sent.values()) - fleet.rows(ENDED)[0][0]
        sent = len(steady.sent)
        wait_for("all that were sent until then are on record", lambda: fleet.rows(ENDED)[0][0] >= sent, 600)
        replayed = time.time() - over
        time.sleep(5)
    harm = harm_to(fleet, steady.sent, seconds=600)
    meanwhile = sum(began <= at < over for at in steady.sent.values())
    print(
        f"the registry {options.how}, seconds         {over - began:.0f}, at {options.rate:g} tasks a second"
    )
    print(f"tasks published meanwhile             {meanwhile}")
    print(f"tasks in all                          {len(steady.sent)}")
    print(f"wait p50/p99 before                   {waits(fleet, steady.sent, 0, began)}")
    print(f"wait p50/p99 meanwhile                {waits(fleet, steady.sent, began, over)}")
    print(f"wait p50/p99 afterwards               {waits(fleet, steady.sent, over)}")
    print(f"journals when it came back            {journal / 1e6:.1f} MB")
    print(f"recorders' memory then                {', '.join(f'{mb:.0f} MB' for mb in recorders)}")
    print(f"not on record when it came back       {missing}")
    print(f"on record, all of them, after         {replayed:.1f} s ({missing / replayed:.0f} tasks a second,")
    print("                                      each a claim and an outcome, beside the load)")
    print(f"harm                                  {harm}")
    return not harm


if __name__ == "__main__":
    sys.exit(main())
