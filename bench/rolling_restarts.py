"""Ten workers under load, one of them restarted every few seconds for ten minutes.

    python bench/rolling_restarts.py [--seconds 600] [--every 4] [--rate 60] [--workers 10]

Workers of ten threads each on a Redis and a PostgreSQL of their own; a restart is SIGTERM, and another
worker of that name once it is gone. Ends with 1 if any task was lost, ran twice or is not on record once, if
any loss was declared, or if connections to the registry grew beyond two for each worker.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.acceptance.rolling import roll
from tests.acceptance.site import site
from tests.faults.postgres import FaultyPostgres
from tests.servers import PrivateRedis

POOL = ("-P", "threads", "-c", "10")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--every", type=float, default=4.0)
    parser.add_argument("--rate", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=10)
    options = parser.parse_args()
    with (
        PrivateRedis() as redis,
        FaultyPostgres() as postgres,
        tempfile.TemporaryDirectory() as folder,
        site(Path(folder), postgres, broker=redis.url, backend=redis.url.removesuffix("/0") + "/1") as place,
    ):
        place.workers(options.workers, *POOL)
        rolled = roll(place, options.seconds, pool=POOL, per_second=options.rate, every=options.every)
        print(rolled)
        return 1 if rolled.harm or rolled.most_connections > 2 * (options.workers + 1) else 0


if __name__ == "__main__":
    sys.exit(main())
