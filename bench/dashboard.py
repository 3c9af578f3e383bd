"""The dashboard of `crisper serve` beside much history: each page's time, and many that are open at once.

    python bench/dashboard.py [--rows 1000000] [--running 10000] [--asks 60] [--open 200] [--seconds 20]

On a PostgreSQL of its own with its defaults, filled by the server itself: so many finished attempts over
the last week, one in a hundred failed and one in five hundred lost and brought back, and so many running on
fifty workers. Each page is asked for by one browser, one after the other; then so many hold `/live` open
while something changes each second, and each asks for its page again when it is told, as a real one does.
"""

from __future__ import annotations

import sys
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

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
