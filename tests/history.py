"""A registry with much history, written by the database itself, for whoever reads it.

So many attempts over the last week on fifty hosts that were restarted every six hours, one life in five by a
death: one attempt in a hundred failed, one in two hundred was lost; of those two in three were brought back
and ran to their end, some wait for a person, the rest were failed by policy, and their messages are kept. A
name and a queue in a million are rare. Beside it so many run on fifty workers, and some messages are
published and not claimed yet.
"""

from __future__ import annotations

import hashlib
from typing import Any

import sqlalchemy as sa

AT_ONCE = 500_000
DAY_MS = 86_400_000
WORKERS = 50
#: Lives of each host within the week, before the one that is alive.
LIVES = 28
RARE_NAME = "shop.tasks.yearly"

_NUMBERS = """
WITH RECURSIVE numbers (n) AS (
    SELECT CAST(:first AS bigint) UNION ALL SELECT n + 1 FROM numbers WHERE n < :last)
"""
_NAME = """
CASE WHEN n % 1000000 = 7 THEN 'shop.tasks.yearly' ELSE 'shop.tasks.' || CASE n % 8
    WHEN 0 THEN 'charge' WHEN 1 THEN 'mail' WHEN 2 THEN 'report' WHEN 3 THEN 'refund' WHEN 4 THEN 'resize'
    WHEN 5 THEN 'index' WHEN 6 THEN 'sync' ELSE 'notify' END END"""
_HISTORY = f"""{_NUMBERS}
INSERT INTO crisper_attempt (task_id, number, message_id, name, queue, incarnation, seq, state, acks_late,
    dispatched, redelivered, retries, tag, copy_refused, on_lost, loss_budget, received_at, started_at,
    finished_at, runtime_ms, closed_seq, counted, reason, args_preview, kwargs_preview, message_size,
    envelope, body)
SELECT md5(CAST(n AS text)), 1, 'm' || n, {_NAME},
    CASE WHEN n % 1000000 = 9 THEN 'vip' WHEN n % 3 = 0 THEN 'mail' ELSE 'celery' END,
    'life-' || (n / 7 % 50) || '-' || (n * 28 / (:rows + 1)), 2 * n,
    CASE WHEN n % 200 = 0 THEN 'lost' WHEN n % 100 = 1 THEN 'failed' WHEN n % 300 = 2 THEN 'retried'
         WHEN n % 100000 = 3 THEN 'revoked' ELSE 'succeeded' END,
    true, true, false, 0, 'tag', false, 'auto', 3, at, at + 20, at + 60 + n % 1000, 40 + n % 1000,
    2 * n + 1, n % 200 = 0,
    CASE WHEN n % 100 = 1 THEN 'ConnectionError: no answer from host ' || (n % 7) END,
    '[42, "customer ' || (n % 1000) || '"]', '{{}}', 200,
    CASE WHEN n % 200 = 0 AND n / 200 % 3 = 2 THEN '{{}}' END,
    CASE WHEN n % 200 = 0 AND n / 200 % 3 = 2 THEN CAST('[[42], {{}}, {{}}]' AS bytes) END
FROM (SELECT n, :now - :past + n * :past / :rows AS at FROM numbers) AS told"""
_SECONDS = """
INSERT INTO crisper_attempt (task_id, number, message_id, name, queue, incarnation, seq, state, acks_late,
    dispatched, redelivered, retries, tag, copy_refused, on_lost, loss_budget, received_at, started_at,
    finished_at, runtime_ms, closed_seq, counted, args_preview, kwargs_preview, message_size)
SELECT task_id, 2, message_id, name, queue, incarnation, -seq, 'succeeded', acks_late, dispatched, true, 0,
    tag, false, on_lost, loss_budget, received_at + 30000, received_at + 30020, received_at + 30060, 40,
    1 - seq, false, args_preview, kwargs_preview, message_size
FROM crisper_attempt WHERE state = 'lost' AND seq / 400 % 3 < 2"""
_RECOVERIES = """
INSERT INTO crisper_recovery (task_id, number, message_id, name, scope, state, version, cause, losses,
    verdict, reason, evidence, decided_by, created_at, decided_at, sent_at, done_at, followed_at)
SELECT task_id, 1, message_id, name, 'scope',
    CASE WHEN NOT waits THEN 'done' WHEN seq / 360000 % 2 = 0 THEN 'quarantined' ELSE 'held' END, 3,
    'worker', 1,
    CASE WHEN again THEN 'resend' WHEN NOT waits THEN 'fail' WHEN seq / 360000 % 2 = 0 THEN 'quarantine'
         ELSE 'hold' END,
    'it was acknowledged early, and may have begun', '{"losses": 1}', 'celery@w1', finished_at, finished_at,
    CASE WHEN NOT waits THEN finished_at END, CASE WHEN NOT waits THEN finished_at + 5 END,
    CASE WHEN again THEN received_at + 30000 END
FROM (SELECT attempt.*, seq / 400 % 3 < 2 AS again, seq / 400 % 3 = 2 AND seq / 400 % 900 < 3 AS waits
      FROM crisper_attempt AS attempt WHERE state = 'lost') AS lost"""
_EVENTS = """
WITH kinds (kind) AS (VALUES ('lost'), ('verdict'), ('recovered'))
INSERT INTO crisper_event (at, kind, task_id, number, incarnation, actor, data)
SELECT decided_at, kind, task_id, 1, CASE WHEN kind = 'lost' THEN incarnation END,
    CASE WHEN kind = 'verdict' AND decided_at % 5000 = 1 THEN 'ann@laptop' ELSE decided_by END,
    '{"verdict": "' || verdict || '", "reason": "' || told.reason || '", "evidence": {"losses": 1}}'
FROM (SELECT recovery.*, lost.incarnation FROM crisper_recovery AS recovery JOIN crisper_attempt AS lost
          ON lost.task_id = recovery.task_id AND lost.number = 1) AS told, kinds ORDER BY 1"""
_LIVES = f"""{_NUMBERS}, lives (life) AS (SELECT 0 UNION ALL SELECT life + 1 FROM lives WHERE life < 28)
INSERT INTO crisper_incarnation (id, hostname, scope, host, boot_id, pid_namespace, pid, pid_start, lease_ms,
    heartbeat_ms, state, counter, generation, started_at, seen_at, ended_at, cleared, evidence, about, pulse)
SELECT 'life-' || n || '-' || life, 'celery@w' || n, 'scope', 'host', 'boot', 'ns', n, n, 86400000, 4000,
    CASE WHEN life = 28 THEN 'alive' WHEN (life + n) % 5 = 0 THEN 'lost' ELSE 'gone' END, 1, 1,
    :now - :past + life * (:past / 28), CASE WHEN life = 28 THEN :now ELSE :now - :past + life * (:past / 28)
    END, CASE WHEN life < 28 THEN :now - :past + (life + 1) * (:past / 28) - 1000 END, true,
    '{{"how": "process gone", "signal": 9}}',
    '{{"pool": "prefork", "concurrency": 200, "queues": ["celery", "mail"], "crisper": "0.1.0"}}', '{{}}'
FROM numbers, lives"""
_RUNNING = f"""{_NUMBERS}
INSERT INTO crisper_attempt (task_id, number, message_id, name, queue, incarnation, seq, state, acks_late,
    dispatched, redelivered, retries, tag, copy_refused, on_lost, loss_budget, received_at, started_at,
    counted, args_preview, kwargs_preview, message_size)
SELECT 'running-' || n, 1, 'r' || n, {_NAME}, 'celery', 'life-' || (n % 50) || '-28', n, 'running', true,
    true, false, 0, 'tag', false, 'auto', 3, :now - n * 30, :now - n * 30, false, '[42]', '{{}}', 200
FROM numbers"""
#: What each worker's last heartbeat told of its attempts.
_TOLD = """
INSERT INTO crisper_running (incarnation, at, told)
SELECT incarnation, :now, '{{' || {join}('"' || seq || '": {{"memory": 52000000}}', ', ') || '}}'
FROM crisper_attempt WHERE state = 'running' GROUP BY incarnation"""
_PUBLISHED = f"""{_NUMBERS}
INSERT INTO crisper_publish (message_id, task_id, scope, name, queue, retries, missing, vanished,
    published_at, due_at, loss_budget, args_preview, kwargs_preview, message_size)
SELECT 'p' || n, 'published-' || n, 'scope', {_NAME}, 'celery', 0, 0, 0, :now - n, :now + 60000, 3, '[42]',
    '{{}}', 200 FROM numbers"""


def fill(url: str, rows: int, running: int, *, published: int = 1000, days: int = 7) -> None:
    """An empty registry, of PostgreSQL or SQLite; analyzed."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _knows_md5)
    with engine.connect() as connection:
        now = connection.execute(sa.text(_NOW[engine.dialect.name])).scalar_one()
        told = {"now": now, "past": days * DAY_MS, "rows": rows}

        def run(statement: str, last: int, first: int = 1) -> None:
            known = {**told, "first": first, "last": last}
            connection.execute(sa.text(statement), {k: v for k, v in known.items() if f":{k}" in statement})

        history = _HISTORY.replace("AS bytes", f"AS {_BYTES[engine.dialect.name]}")
        for at in range(0, rows, AT_ONCE):
            run(history, min(at + AT_ONCE, rows), at + 1)
        for statement in (_SECONDS, _RECOVERIES, _EVENTS):
            run(statement, rows)
        run(_LIVES, WORKERS - 1, 0)
        run(_RUNNING, running)
        run(_TOLD.format(join=_JOIN[engine.dialect.name]), running)
        run(_PUBLISHED, published)
        for statement in _TIDY[engine.dialect.name]:
            connection.exec_driver_sql(statement)
    engine.dispose()


_NOW = {
    "postgresql": "SELECT CAST(extract(epoch FROM now()) * 1000 AS bigint)",
    "sqlite": "SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
}
_JOIN = {"postgresql": "string_agg", "sqlite": "group_concat"}
_BYTES = {"postgresql": "bytea", "sqlite": "blob"}
_TIDY = {
    "postgresql": ("VACUUM ANALYZE", "CHECKPOINT"),
    "sqlite": ("PRAGMA wal_checkpoint(TRUNCATE)",),
}


def _knows_md5(connection: Any, _record: Any) -> None:
    connection.create_function("md5", 1, lambda text: hashlib.md5(text.encode()).hexdigest())


def task_id(n: int) -> str:
    """Of the history's n-th attempt."""
    return hashlib.md5(str(n).encode()).hexdigest()
