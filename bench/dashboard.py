"""The dashboard of `crisper serve` beside much history: each page and answer, and many that are open at once.

    python bench/dashboard.py [--rows 10000000] [--running 10000] [--asks 60] [--open 200] [--seconds 20]
        [--sqlite] [--registry URL] [--keep]

On a PostgreSQL of its own with its defaults, or a SQLite file, filled by the database itself
(`tests/history.py`). The server is begun anew, then each page is asked for once (cold), then in rounds: a
round takes longer than answers are kept for the many, so each one is asked of the registry. Then so many hold
`/live` open: for some seconds nothing changes, then something does each second, and each asks for its page
again when it is told, as a real one does, while one more browser goes through all pages. Ten million rows
take 9 GB of disk, and some minutes to write. `--keep` leaves them until Ctrl-C, for `--registry` of
another run, which changes little of them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from crisper.faces.serve.registry import SHOWN_SECONDS
from crisper.store.migrate import upgrade
from crisper.store.open import is_sqlite, open_store
from tests.history import RARE_NAME, fill, task_id
from tests.serve.test_process import LINK, serving
from tests.servers import PrivatePostgres
from tests.store.acting import Actor

_SEARCHES = (
    "",
    *(f"state={one}" for one in ("failed", "held", "quarantined", "recovering", "running", "succeeded")),
    *("name=shop.tasks.charge", f"name={RARE_NAME}", "name=*nothing*", f"name={RARE_NAME}&state=failed"),
    *("queue=mail", "queue=vip", "queue=none", "worker=celery@w3", "worker=none", "older_than=3d"),
    *("lost_by=life-14-26", "lost_by=life-14-26&state=failed", "lost_by=none"),
)
_QUESTIONS = (
    *("/running", "/workers", "/workers?all=true", "/timeline", "/timeline?since=7d"),
    *("/failures", "/failures?since=7d", "/queues"),
)
PAGES = (
    *("/", *_QUESTIONS, "/audit", "/audit?kind=everything", "/audit?by=ann@*", "/audit?by=nobody"),
    *("/audit?kind=worker_lost", "/audit?since=1d", "/many?verb=recover", "/many?verb=discard"),
    *("/many?verb=stop&queue=celery", "/many?verb=recover&name=*nothing*", "/many?verb=recover&state=failed"),
    f"/search?q={task_id(7)[:8]}",
    *("/task?id=running-77", f"/task?id={task_id(1000)}", f"/api/v1/tasks/{task_id(1000)}"),
    *(f"{path}?{search}".rstrip("?") for path in ("/tasks", "/api/v1/tasks") for search in _SEARCHES),
    *("/api/v1/status", *(f"/api/v1{path}" for path in _QUESTIONS), "/api/v1/events", "/metrics"),
    *("/api/v1/events?kind=verdict", "/api/v1/events?by=nobody", "/api/v1/selection?verb=recover"),
)
#: What a page may take, at p95 (issue 6); and what a browser waits for in vain.
WANTED_MS, PATIENCE_SECONDS = 100, 20
_ROW = "| {} | {} | {} | {} | {} |"


class Times(NamedTuple):
    """Milliseconds, in the order in which they were taken."""

    all: list[float]

    def at(self, share: float) -> float:
        return sorted(self.all)[min(len(self.all) - 1, int(len(self.all) * share))]

    def __str__(self) -> str:
        shares = (f"p{share * 100:.0f} {self.at(share):.0f}" for share in (0.5, 0.95, 0.99))
        return f"{' '.join(shares)} longest {max(self.all):.0f} ms"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--running", type=int, default=10_000)
    parser.add_argument("--asks", type=int, default=60)
    parser.add_argument("--open", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--sqlite", action="store_true")
    parser.add_argument("--registry", metavar="URL")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--only", nargs="+", metavar="PAGE", default=PAGES)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what it started is ended too
    with filled(options) as url:
        measure(url, options)
        if options.keep and not options.registry:
            print(f"--registry {url}\nuntil Ctrl-C or SIGTERM", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
    return 0


@contextlib.contextmanager
def filled(options: argparse.Namespace) -> Iterator[str]:
    with contextlib.ExitStack() as stack:
        server = None
        if options.registry:
            yield options.registry
            return
        if options.sqlite:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="crisper-dashboard-"))
            url = f"sqlite:///{folder}/registry.db"
        else:
            server = stack.enter_context(PrivatePostgres())
            url = server.url
        began = time.monotonic()
        upgrade(url)
        fill(url, options.rows, options.running)
        print(f"{options.rows:,} attempts written in {time.monotonic() - began:.0f} s", flush=True)
        if server is not None:
            server.stop()
            server.start()
        yield url


def measure(url: str, options: argparse.Namespace) -> None:
    with serving(url, "--no-sweep") as process:
        base, link = process.wait_for(LINK).groups()
        with httpx.Client(base_url=base, timeout=PATIENCE_SECONDS) as client:
            client.get(link)
            pages, load = options.only, f"{os.getloadavg()[0]:.1f}"
            cold = {page: asked(client, page) for page in pages}
            family = Family(process.popen.pid, server_of(url))
            took, spent = rounds(client, pages, options.asks, family)
            print(
                _ROW.format("milliseconds", "cold", "p50", "p95", "CPU: serve, server"),
                _ROW.format(*["---"] * 5),
                sep="\n",
            )
            for page in pages:
                cpu = ", ".join(f"{one * 1000 / options.asks:.0f}" for one in spent[page])
                times = (f"{one:.0f}" for one in (cold[page], took[page].at(0.5), took[page].at(0.95)))
                print(_ROW.format(f"`{page}`", *times, cpu), flush=True)
            everything = Times([one for page in pages for one in took[page].all])
            slow = [page for page in pages if took[page].at(0.95) > WANTED_MS]
            print(f"all {len(pages)} pages: {everything}; {len(slow)} above {WANTED_MS} ms at p95: {slow};"
                  f" load {load} before, {os.getloadavg()[0]:.1f} after", flush=True)  # fmt: skip
            if options.open:
                asyncio.run(beside(base, client, url, family, options))


def rounds(
    client: httpx.Client, pages: tuple[str, ...], times: int, family: Family
) -> tuple[dict[str, Times], dict[str, list[float]]]:
    """How long each page took each time, and the seconds of CPU that `serve` and the server had for it."""
    took = {page: Times([]) for page in pages}
    spent = {page: [0.0, 0.0] for page in pages}
    for _ in range(times):
        ends = time.monotonic() + SHOWN_SECONDS * 1.05
        for page in pages:
            before = family.cpu()
            took[page].all.append(asked(client, page))
            spent[page] = [a + b - c for a, b, c in zip(spent[page], family.cpu(), before, strict=True)]
        time.sleep(max(0.0, ends - time.monotonic()))
    return took, spent


def asked(client: httpx.Client, page: str) -> float:
    """Milliseconds; for ever, if it was not answered."""
    at = time.perf_counter()
    try:
        answer = client.get(page)
    except httpx.TimeoutException:
        return math.inf
    return (time.perf_counter() - at) * 1000 if answer.status_code in (200, 303) else math.inf


# -- many that are open --------------------------------------------------------


async def beside(
    base: str, client: httpx.Client, url: str, family: Family, options: argparse.Namespace
) -> None:
    """What so many open dashboards cost while nothing happens; how long pages take while something does."""
    [cookie] = [f"{name}={value}" for name, value in client.cookies.items()]
    again: list[float] = []
    opened = [asyncio.create_task(open_page(base, cookie, again)) for _ in range(options.open)]
    await asyncio.sleep(5)  # each has asked for its page once
    before = Costs.now(url, family)
    await asyncio.sleep(options.seconds)
    print(f"{options.open} open, nothing changes: {before.until(Costs.now(url, family))}", flush=True)
    again.clear()
    before, one_more = Costs.now(url, family), asyncio.create_task(one_browser(client, options))
    worker = Actor(open_store(url), hostname="celery@busy", lease_ms=86_400_000)
    for n in range(int(options.seconds)):
        await asyncio.sleep(1)
        await asyncio.to_thread(worker.runs, f"new-{before.at}-{n}", f"new-{n}")
    print(f"{options.open} open, something changes each second:"
          f" {before.until(Costs.now(url, family))}", flush=True)  # fmt: skip
    print(f"their pages, {len(again)}: {Times(again)}")
    print(f"beside them, one browser goes through all pages: {await one_more}", flush=True)
    for one in opened:
        assert not one.done(), one.exception()
        one.cancel()
    await asyncio.gather(*opened, return_exceptions=True)
    worker.store.say_goodbye(worker.fence, reason="the end")
    worker.store.close()


async def one_browser(client: httpx.Client, options: argparse.Namespace) -> Times:
    took, ends = Times([]), time.monotonic() + options.seconds
    while time.monotonic() < ends:
        took.all.append(await asyncio.to_thread(asked, client, random.choice(options.only)))
        await asyncio.sleep(0.05)
    return took


async def open_page(base: str, cookie: str, took: list[float]) -> None:
    live, _connection = await ask(base, "/live", cookie)
    while line := await live.readline():
        if line == b"event: changed\n":
            await asyncio.sleep(random.random())  # as crisper.js does
            at = time.perf_counter()
            page, connection = await ask(base, "/", cookie)
            assert (await page.read()).endswith(b"</html>")
            connection.close()
            took.append((time.perf_counter() - at) * 1000)


async def ask(base: str, path: str, cookie: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """As bare as it goes: two hundred browsers are on one machine here."""
    host, port = base.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n".encode()
    )
    status = await reader.readline()
    assert status.startswith(b"HTTP/1.1 200"), status
    return reader, writer


class Costs(NamedTuple):
    """Since they began: CPU seconds of `serve` and of the database's server, and its transactions."""

    at: float
    serve: float
    server: float
    transactions: int

    @classmethod
    def now(cls, url: str, family: Family) -> Costs:
        count = 0
        if not is_sqlite(url):
            with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
                row = connection.execute("SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database")
                count = int((row.fetchone() or [0])[0])
        return cls(time.monotonic(), *family.cpu(), count)

    def until(self, later: Costs) -> str:
        at, serve, server, count = (a - b for a, b in zip(later, self, strict=True))
        told = f"serve {serve / at:.2f} of a core"
        if self.server:
            told += f", PostgreSQL {server / at:.2f}"
        return told + (f", {count / at:.1f} transactions a second" if count else "")


class Family(NamedTuple):
    serve: int
    server: int | None  # PostgreSQL's first process

    def cpu(self) -> tuple[float, float]:
        """Seconds of both modes that `serve`, and the server with its children, have had."""
        if self.server is None:
            return _cpu(self.serve), 0.0
        return _cpu(self.serve), _cpu_of_server(self.server)


def server_of(url: str) -> int | None:
    """The parent of our own backend."""
    if is_sqlite(url):
        return None
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        return int(_stat(connection.info.backend_pid)[1])


def _cpu(pid: int, *, ended: bool = False) -> float:
    """Of the process; and of those of its children that have ended."""
    return sum(int(one) for one in _stat(pid)[11 : 15 if ended else 13]) / os.sysconf("SC_CLK_TCK")


def _cpu_of_server(pid: int) -> float:
    """Each question is a process of its own, which ends with it."""
    total = _cpu(pid, ended=True)
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(_stat(int(process.name))[1]) == pid:
                total += _cpu(int(process.name))
    return total


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


if __name__ == "__main__":
    sys.exit(main())
