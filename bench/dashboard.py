"""The dashboard of `crisper serve` beside much history: each page's time, and many that are open at once.

    python bench/dashboard.py [--rows 1000000] [--running 10000] [--asks 60] [--open 200] [--seconds 20]

On a PostgreSQL of its own with its defaults, filled by the server itself: so many finished attempts over
the last week, one in a hundred failed and one in five hundred lost and brought back, and so many running on
fifty workers. Each page is asked for by one browser, one after the other; then so many hold `/live` open
while something changes each second, and each asks for its page again when it is told, as a real one does.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import time
from pathlib import Path
from typing import NamedTuple

import httpx
import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from crisper.faces.serve.registry import SHOWN_SECONDS
from crisper.store.migrate import upgrade
from crisper.store.open import open_store
from tests.serve.test_process import LINK, serving
from tests.servers import PrivatePostgres
from tests.store.acting import Actor

PAGES = (
    *(
        "/",
        "/running",
        "/workers",
        "/timeline",
        "/timeline?since=7d",
        "/failures",
        "/failures?since=7d",
        "/queues",
    ),
    *(
        "/audit",
        "/audit?by=ann@*",
        "/many?verb=recover",
        "/tasks",
        "/tasks?state=failed",
        "/tasks?state=held",
    ),
    *("/tasks?state=running", "/tasks?queue=mail", "/tasks?worker=celery@w3", "/task?id=running-77"),
)
AT_ONCE = 500_000
WEEK_MS = 7 * 86_400_000
WORKERS = 50

_HISTORY = """
INSERT INTO crisper_attempt (task_id, number, message_id, name, queue, incarnation, seq, state, acks_late,
    dispatched, redelivered, retries, tag, copy_refused, on_lost, loss_budget, received_at, started_at,
    finished_at, runtime_ms, closed_seq, counted, reason, args_preview, kwargs_preview, message_size)
SELECT md5(n::text), 1, 'm' || n, 'shop.tasks.' || (ARRAY['charge', 'mail', 'report', 'refund'])[1 + n %% 4],
    (ARRAY['celery', 'mail'])[1 + n %% 2], 'past-' || n %% 50, 2 * n,
    CASE WHEN n %% 500 = 0 THEN 'lost' WHEN n %% 100 = 1 THEN 'failed' ELSE 'succeeded' END,
    true, true, false, 0, 'tag', false, 'auto', 3, at, at + 20, at + 60 + n %% 1000, 40 + n %% 1000,
    2 * n + 1, n %% 500 = 0,
    CASE WHEN n %% 100 = 1 THEN 'ConnectionError: no answer from host ' || n %% 7 END,
    '[42]', '{}', 200
FROM (SELECT n, %(now)s - %(week)s + (n * (%(week)s::float / %(rows)s))::bigint AS at
      FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n) AS told"""
_RECOVERIES = """
INSERT INTO crisper_recovery (task_id, number, message_id, name, scope, state, version, cause, losses,
    verdict, reason, evidence, decided_by, created_at, decided_at, sent_at, done_at)
SELECT task_id, 1, message_id, name, 'scope', CASE WHEN seq % 50000 = 0 THEN 'quarantined' ELSE 'done' END, 3,
    'worker', 1, CASE WHEN seq % 50000 = 0 THEN 'quarantine' ELSE 'fail' END,
    'it was acknowledged early, and may have begun', '{"losses": 1}', 'celery@w1', finished_at, finished_at,
    finished_at, finished_at FROM crisper_attempt WHERE state = 'lost'"""
_EVENTS = """
INSERT INTO crisper_event (at, kind, task_id, number, actor, data)
SELECT decided_at, kind, task_id, 1, decided_by,
    '{"verdict": "' || verdict || '", "reason": "' || reason || '", "evidence": {"losses": 1}}'
FROM crisper_recovery, (VALUES ('lost'), ('verdict'), ('recovered')) AS kinds (kind) ORDER BY 1"""
_LIVES = """
INSERT INTO crisper_incarnation (id, hostname, scope, host, boot_id, pid_namespace, pid, pid_start, lease_ms,
    heartbeat_ms, state, counter, generation, started_at, seen_at, ended_at, cleared, evidence, about, pulse)
SELECT CASE WHEN alive THEN 'w' ELSE 'past-' END || n, 'celery@w' || n, 'scope', 'host', 'boot', 'ns', n, n,
    86400000, 4000, CASE WHEN alive THEN 'alive' ELSE 'lost' END, 1, 1,
    %(now)s - CASE WHEN alive THEN 3600000 * (1 + n %% 9) ELSE %(week)s END, %(now)s,
    CASE WHEN NOT alive THEN %(now)s - 3600000 * (1 + n %% 9) END, true, '{"how": "process gone"}',
    '{"pool": "prefork", "concurrency": 200, "queues": ["celery", "mail"], "crisper": "0.1.0"}', '{}'
FROM generate_series(0, %(last)s) AS n, (VALUES (true), (false)) AS lives (alive)"""
_RUNNING = """
INSERT INTO crisper_attempt (task_id, number, message_id, name, queue, incarnation, seq, state, acks_late,
    dispatched, redelivered, retries, tag, copy_refused, on_lost, loss_budget, received_at, started_at,
    counted, args_preview, kwargs_preview, message_size)
SELECT 'running-' || n, 1, 'r' || n,
    'shop.tasks.' || (ARRAY['charge', 'mail', 'report', 'refund'])[1 + n %% 4],
    'celery', 'w' || n %% 50, n, 'running', true, true, false, 0, 'tag', false, 'auto', 3,
    %(now)s - n * 30, %(now)s - n * 30, false, '[42]', '{}', 200 FROM generate_series(1, %(last)s) AS n"""


def fill(url: str, rows: int, running: int) -> None:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        [now] = connection.execute("SELECT (extract(epoch FROM now()) * 1000)::bigint").fetchone() or [0]
        told = {"now": now, "week": WEEK_MS, "rows": rows}
        for at in range(0, rows, AT_ONCE):
            connection.execute(_HISTORY, {**told, "first": at + 1, "last": min(at + AT_ONCE, rows)})
        connection.execute(_RECOVERIES)
        connection.execute(_EVENTS)
        connection.execute(_LIVES, {**told, "last": WORKERS - 1})
        connection.execute(_RUNNING, {**told, "last": running})
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


#: What these show is kept for a second: asked again within it they tell of the server alone.
SHARED = ("/", "/running", "/workers", "/timeline?since=7d", "/failures?since=7d")


class Times(NamedTuple):
    """Milliseconds, the shortest first."""

    all: list[float]

    def __str__(self) -> str:
        told = sorted(self.all)
        return (
            f"p50 {told[len(told) // 2]:.0f} p95 {told[int(len(told) * 0.95)]:.0f} longest {told[-1]:.0f} ms"
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--running", type=int, default=10_000)
    parser.add_argument("--asks", type=int, default=60)
    parser.add_argument("--open", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    with PrivatePostgres() as server:
        upgrade(server.url)
        fill(server.url, options.rows, options.running)
        measure(server.url, options)
    return 0


def measure(url: str, options: argparse.Namespace) -> None:
    with serving(url, "--no-sweep") as process:
        base, link = process.wait_for(LINK).groups()
        with httpx.Client(base_url=base, timeout=60) as client:
            client.get(link)
            for page in PAGES:
                print(f"{page}: {asked(client, page, options.asks)}", flush=True)
            for page in SHARED:
                told = asked(client, page, max(2, options.asks // 4), SHOWN_SECONDS)
                print(f"{page}, asked of the registry each time: {told}", flush=True)
            [cookie] = [f"{name}={value}" for name, value in client.cookies.items()]
        pid, before, began = process.popen.pid, cpu(process.popen.pid), time.monotonic()
        told = asyncio.run(open_pages(base, cookie, url, options))
        share = (cpu(pid) - before) / (time.monotonic() - began)
        print(f"{options.open} open: {len(told.all)} pages in {options.seconds:g} s, {told};"
              f" {share:.2f} of a core")  # fmt: skip


def asked(client: httpx.Client, page: str, times: int, pause: float = 0.0) -> Times:
    took = []
    for _ in range(times):
        time.sleep(pause)
        at = time.perf_counter()
        assert client.get(page).status_code == 200, page
        took.append((time.perf_counter() - at) * 1000)
    return Times(took)


async def open_pages(base: str, cookie: str, url: str, options: argparse.Namespace) -> Times:
    """How long each page took that was asked for because something had changed."""
    took: list[float] = []
    opened = [asyncio.create_task(open_page(base, cookie, took)) for _ in range(options.open)]
    worker = Actor(open_store(url), hostname="celery@busy", lease_ms=86_400_000)
    for n in range(int(options.seconds)):
        await asyncio.sleep(1)
        worker.runs(f"new-{n}", f"new-{n}")
    for one in opened:
        assert not one.done(), one.exception()
        one.cancel()
    await asyncio.gather(*opened, return_exceptions=True)
    worker.store.close()
    return Times(took)


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


def cpu(pid: int) -> float:
    """Seconds of both modes that the process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
