"""What a claim and an outcome cost on their way into the registry, by the size of their batch.

    python bench/recording.py [--registry postgresql+psycopg://…] [--batches 200] [--rounds 1] [--index]

Each batch claims so many tasks and ends those of the batch before. CPU is this process's, which is what
a recorder spends; on a server also that of its process for us (of all of MariaDB's), and bytes of its log.
Without `--registry` a private PostgreSQL is measured, with `crisper.store.at_once` and without it, beside a
private MariaDB and a SQLite file. `--index` measures another private PostgreSQL instead, beside the first:
there the index of open attempts tells no states and times, as before schema 0010. Rounds are in alternation,
and medians are printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psycopg
from sqlalchemy import make_url

from bench.throughput import cpu_seconds
from crisper.core.model import Claim, Finish, Message
from crisper.core.states import State
from crisper.store.at_once import NOTHING
from crisper.store.migrate import upgrade
from crisper.store.open import open_store
from tests.servers import PrivateMariaDB, PrivatePostgres
from tests.store.acting import claim, incarnation

SIZES = (1, 4, 16, 64)
#: As large as a usual message of a task with two arguments.
MESSAGE = Message(
    b"[[1, 2], {}, {}]" * 12, json.dumps({"headers": dict.fromkeys(map(str, range(25)), "value")}), 192
)


_NARROW = """
DROP INDEX crisper_attempt_open;
CREATE UNIQUE INDEX crisper_attempt_open ON crisper_attempt (incarnation, seq)
 WHERE state IN ('claimed', 'running')"""


_LOGGED = {
    "postgresql": "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')",
    "mariadb": "SELECT variable_value FROM information_schema.global_status"
    " WHERE variable_name = 'innodb_lsn_current'",
    "sqlite": "",
}


class Bench:
    def __init__(self, url: str, *, row_by_row: bool = False, server: int = 0) -> None:
        self.store: Any = open_store(url)
        if row_by_row:
            self.store.db.at_once = lambda fence, records: NOTHING
        self.fence = self.store.enroll(incarnation())
        self.logged = _LOGGED[make_url(url).get_backend_name()]
        self.server = server or (self._ask("SELECT pg_backend_pid()") if url.startswith("postgres") else 0)
        self.seq, self.open = 0, list[Claim]()

    def _ask(self, question: str) -> int:
        with self.store.db.write():
            return int(self.store.db.rows(question)[0][0])

    def write(self, size: int, batches: int) -> None:
        for _ in range(batches):
            claims = [self._claim() for _ in range(size)]
            ends = [
                Finish(self._next(), c.seq, c.task_id, State.SUCCEEDED, None, 3, pid=99) for c in self.open
            ]
            self.store.record(self.fence, [*claims, *ends], renewing=())
            self.open = claims

    def _claim(self) -> Claim:
        task = str(uuid.uuid4())
        return claim(self._next(), task, f"m{task}", message=MESSAGE)

    def _next(self) -> int:
        self.seq += 1
        return self.seq

    def measure(self, size: int, batches: int) -> tuple[float, float, float]:
        """Microseconds of CPU per task, here and in the server, and bytes of its log."""
        self.write(size, 20)
        here, there, logged = time.process_time(), self._there(), self._logged()
        self.write(size, batches)
        tasks = size * batches
        return (
            (time.process_time() - here) / tasks * 1e6,
            (self._there() - there) / tasks * 1e6,
            (self._logged() - logged) / tasks,
        )

    def _there(self) -> float:
        return cpu_seconds(self.server) if self.server else 0.0

    def _logged(self) -> int:
        return self._ask(self.logged) if self.logged else 0


@contextlib.contextmanager
def benches(registry: str, *, index: bool) -> Iterator[dict[str, Bench]]:
    with contextlib.ExitStack() as stack:
        url = registry or stack.enter_context(PrivatePostgres()).url
        if index:
            narrow = stack.enter_context(PrivatePostgres()).url
            for each in (url, narrow):
                upgrade(each)
            with psycopg.connect(narrow.replace("+psycopg", ""), autocommit=True) as connection:
                connection.execute(_NARROW)
            made = {"as it is": Bench(url), "narrow": Bench(narrow)}
            yield made
            for bench in made.values():
                bench.store.close()
            return
        file = f"sqlite:///{stack.enter_context(tempfile.TemporaryDirectory())}/registry.db"
        mariadb = stack.enter_context(PrivateMariaDB())
        mariadb_url = mariadb.url.replace("mysql+pymysql", "mariadb")
        for each in (url, mariadb_url, file):
            upgrade(each)
        made = {
            "at once": Bench(url),
            "row by row": Bench(url, row_by_row=True),
            "MariaDB": Bench(mariadb_url, server=mariadb.pid),
            "SQLite": Bench(file),
        }
        for bench in made.values():
            stack.callback(bench.store.close)
        yield made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--registry", default="")
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--index", action="store_true")
    options = parser.parse_args()
    print(f"{'':<32}{'µs of CPU per task':>24}{'WAL bytes':>12}")
    print(f"{'tasks in a batch':<18}{'way':<14}{'recorder':>12}{'server':>12}{'per task':>12}")
    with benches(options.registry, index=options.index) as made:
        for size in SIZES:
            rounds = [
                {name: bench.measure(size, options.batches) for name, bench in made.items()}
                for _ in range(options.rounds)
            ]
            for name, bench in made.items():
                here, there, logged = map(statistics.median, zip(*(one[name] for one in rounds), strict=True))
                of_server = f"{there:>12.0f}{logged:>12.0f}" if bench.server else ""
                print(f"{size:<18}{name:<14}{here:>12.0f}{of_server}", flush=True)


if __name__ == "__main__":
    main()
