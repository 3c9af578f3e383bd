"""Ten thousand tasks running at once on ten gevent workers, all killed and started again: when all run again.

    python bench/ten_thousand_running.py [--workers 10] [--each 1000] [--no-proof] [--lease 20] [--plain]

Parents and recorders get SIGKILL at the same moment, and workers of the same names are started at once.
With `--no-proof` each worker lives in a pid namespace of its own, as in a container: nobody can see that
its processes are gone, and silence has to decide. With `--plain` the same ten workers start without
Crisper and find ten thousand messages in the queue: what starting and running them costs anyway, which
no recovery can undercut. On a Redis and a PostgreSQL of its own, with
`crisper_recovery_rate` 2,000. Ends with 1 if any task did not run again, or ran twice at once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.acceptance.containers import container, destroy, entered
from tests.acceptance.site import Site, site
from tests.faults.postgres import FaultyPostgres
from tests.fleet import Worker, wait_for
from tests.servers import PrivateRedis

PATIENCE = 300.0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--each", type=int, default=1000)
    parser.add_argument("--no-proof", action="store_true")
    parser.add_argument("--lease", type=float, default=20.0)
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    with (
        PrivateRedis() as redis,
        FaultyPostgres() as postgres,
        tempfile.TemporaryDirectory() as folder,
        site(
            Path(folder), postgres, broker=redis.url, backend=redis.url.removesuffix("/0") + "/1",
            recovery_rate=2000, lease=options.lease,
        ) as place,
    ):  # fmt: skip
        measure = plain_started if options.plain else killed_and_started
        return 0 if measure(place, options) else 1


def start(place: Site, options: argparse.Namespace) -> list[Worker]:
    arguments = ("-P", "gevent", "-c", str(options.each))
    inside = container() if options.no_proof else ()
    names = [f"w{n}" for n in range(options.workers)]
    environment = {"FLEET_PREFETCH": "1"} | ({"FLEET_PLAIN": "1"} if options.plain else {})
    return [place.fleet.worker(name, *arguments, wait=False, inside=inside, **environment) for name in names]


def kill(workers: list[Worker], options: argparse.Namespace) -> None:
    if options.no_proof:
        for worker in workers:
            # While it is open the kernel gives the namespace's number to no other, which would be a proof.
            os.open(f"/proc/{worker.pid}/ns/pid", os.O_RDONLY)
            destroy(worker)
        return
    for pid in [*(worker.recorder() for worker in workers), *(worker.pid for worker in workers)]:
        os.kill(pid, signal.SIGKILL)
    for worker in workers:
        worker.process.wait(30)


def begun(place: Site) -> int:
    return (place.fleet.folder / "ledger").read_bytes().count(b"start ")


KINDS = {
    "crisper.recorder": "recorders",
    "celery": "parents",
    "postgres": "PostgreSQL",
    "redis-server": "Redis",
}


def cpu_by_kind() -> dict[str, float]:
    """Seconds that the processes now alive have had, since they began."""
    spent: Counter[str] = Counter()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            kind = next((kind for word, kind in KINDS.items() if word in command), None)
            if kind is not None:
                spent[kind] += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return dict(spent)


def publish(place: Site, count: int) -> None:
    (place.fleet.folder / "ledger").touch()
    with place.fleet.app.producer_pool.acquire() as producer:
        for n in range(count):
            place.fleet.send("late", n, 3600, producer=producer, expires=7200)


def plain_started(place: Site, options: argparse.Namespace) -> bool:
    count = options.workers * options.each
    publish(place, count)
    at = time.monotonic()
    start(place, options)
    marks = wait_until_all_run(place, count, 0, at)
    print(f"tasks waiting for {options.workers} workers without Crisper   {count}")
    tell(marks, count)
    return begun(place) == count


def killed_and_started(place: Site, options: argparse.Namespace) -> bool:
    fleet, count = place.fleet, options.workers * options.each
    first = start(place, options)
    for worker in first:
        entered(worker) if options.no_proof else worker.ready(120)
    publish(place, count)
    wait_for("all run", lambda: begun(place) >= count, PATIENCE)
    running = "SELECT count(*) FROM crisper_attempt WHERE state = 'running'"
    wait_for("all on record", lambda: fleet.rows(running)[0][0] >= count, PATIENCE)
    kill(first, options)
    at = time.monotonic()
    start(place, options)
    marks = wait_until_all_run(place, count, count, at)
    runs = Counter(line.task_id for line in fleet.starts())
    print(f"tasks running on {options.workers} workers, all killed    {count}")
    print(f"proof on the same host                {'off' if options.no_proof else 'on'}")
    tell(marks, count)
    print(f"ran once, twice, more often           {[sum(n == k for n in runs.values()) for k in (1, 2)]},"
          f" {sum(n > 2 for n in runs.values())}")  # fmt: skip
    return set(runs.values()) == {2} and len(runs) == count


def wait_until_all_run(place: Site, count: int, before: int, at: float) -> dict[str, float]:
    """Seconds since `at`, when `count` more bodies than `before` had begun, and on the way there."""
    marks: dict[str, float] = {}
    lost = "SELECT count(*) FROM crisper_attempt WHERE state = 'lost'"
    while (again := begun(place) - before) < count and time.monotonic() - at < PATIENCE:
        since = time.monotonic() - at
        if again:
            marks.setdefault("the first runs", since)
        if before and "all are declared lost" not in marks and place.fleet.rows(lost)[0][0] >= count:
            marks["all are declared lost"] = since
        if again >= count / 2:
            marks.setdefault("half of them run", since)
        time.sleep(0.2)
    return marks | {"all run": time.monotonic() - at}


def tell(marks: dict[str, float], count: int) -> None:
    for what, seconds in marks.items():
        print(f"{what:<37} {seconds:.1f} s")
    for kind, seconds in cpu_by_kind().items():
        print(f"CPU of {kind:<30} {seconds:.1f} s, {seconds / count * 1000:.2f} ms a task")


if __name__ == "__main__":
    sys.exit(main())
