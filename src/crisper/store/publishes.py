"""Publishing on record, in SQL: messages that left, and what is done about those that nobody claims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from crisper.core.model import Look, Message, Published
from crisper.core.text import as_json, fitting, key, storable
from crisper.store.database import Row
from crisper.store.rows import ATTEMPT

if TYPE_CHECKING:
    from crisper.store.sql.parts import Parts

#: How long a message is one courier's to look for, in ms of the registry's clock.
LOOK_MS = 60_000
#: Claimed ones forgotten at a time.
FORGET = 1000

_COLUMNS = (
    "message_id, task_id, scope, name, queue, retries, loss_budget, missing, vanished, published_at,"
    " due_at, args_preview, kwargs_preview, message_size, why_not_kept, envelope, body"
)
_INSERT = f"""
INSERT INTO crisper_publish ({_COLUMNS})
VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""

#: A vanished message's own lost attempts have no incarnation.
_CLAIMED = """
EXISTS (SELECT 1 FROM crisper_attempt a
         WHERE a.task_id = p.task_id AND a.message_id = p.message_id AND a.incarnation <> '')"""

_FORGET = f"""
DELETE FROM crisper_publish WHERE message_id IN (
    SELECT message_id FROM (
        SELECT message_id FROM crisper_publish p WHERE scope = ? AND due_at <= ? AND {_CLAIMED} LIMIT ?) f)"""

_ATTEMPT = f"""
INSERT INTO crisper_attempt ({ATTEMPT}, args_preview, kwargs_preview, envelope, body)
SELECT p.task_id,
       (SELECT COALESCE(max(number), 0) + 1 FROM crisper_attempt b WHERE b.task_id = p.task_id),
       p.message_id, p.name, p.queue, '', 0, 'lost', TRUE, FALSE, FALSE, p.retries, '', FALSE, NULL, NULL,
       'resend', p.loss_budget, p.published_at, NULL, ?, NULL, NULL, FALSE, 'vanished', p.message_size,
       p.why_not_kept, p.args_preview, p.kwargs_preview, p.envelope, p.body
  FROM crisper_publish p WHERE p.message_id = ? AND NOT {_CLAIMED} ON CONFLICT DO NOTHING"""

_RECOVERY = """
INSERT INTO crisper_recovery
       (task_id, number, message_id, name, scope, state, version, cause, losses, evidence, created_at)
SELECT a.task_id, a.number, a.message_id, a.name, p.scope, 'pending', 1,
       CASE WHEN p.vanished = 0 THEN 'vanished' ELSE 'vanished again' END, 0, ?, ?
  FROM crisper_publish p JOIN crisper_attempt a
    ON a.task_id = p.task_id AND a.message_id = p.message_id AND a.incarnation = ''
   AND a.number = (SELECT max(number) FROM crisper_attempt b WHERE b.task_id = p.task_id)
 WHERE p.message_id = ? ON CONFLICT DO NOTHING"""

_EVENT = """
INSERT INTO crisper_event (at, kind, task_id, number, incarnation, seq, actor, data)
SELECT ?, 'vanished', task_id, max(number), NULL, NULL, ?, ? FROM crisper_attempt
 WHERE message_id = ? AND task_id = ? AND incarnation = '' GROUP BY task_id"""


def insert(store: Parts, messages: Sequence[Published], due_in_ms: int) -> None:
    now = store.now()
    store.db.each(_INSERT, [_row(now, one, due_in_ms, store.db.largest) for one in messages])


def _row(now: int, one: Published, due_in_ms: int, largest: int | None) -> Row:
    message, at = fitting(one.message, largest), now - one.age_ms
    return (
        key(one.message_id), key(one.task_id), one.scope, storable(one.name), storable(one.queue),
        min(one.retries, 2**31 - 1), one.loss_budget, at, at + one.delay_ms + due_in_ms,
        storable(one.args_preview), storable(one.kwargs_preview), message.size, message.why_not,
        storable(message.envelope), message.body,
    )  # fmt: skip


def take(store: Parts, scope: str, limit: int) -> list[Published]:
    now = store.now()
    while store.db.run(_FORGET, scope, now, FORGET) == FORGET:
        pass
    rows = store.db.rows(
        f"SELECT {_COLUMNS} FROM crisper_publish WHERE scope = ? AND due_at <= ?"
        f" ORDER BY due_at LIMIT ?{store.db.skip}",
        *(scope, now, limit),
    )
    taken = [_published(row, now)._replace(until=now + LOOK_MS) for row in rows]
    due = "UPDATE crisper_publish SET due_at = ? WHERE message_id = ?"
    store.db.each(due, [(one.until, one.message_id) for one in taken])
    return taken


def _published(row: Row, now: int) -> Published:
    (message_id, task_id, scope, name, queue, retries, budget, missing, vanished, published_at, _due,
     args, kwargs, size, why_not, envelope, body) = row  # fmt: skip
    message = Message(None if body is None else bytes(body), envelope or "{}", size, why_not)
    return Published(message_id, task_id, scope, name, queue, retries, budget, message, args, kwargs,
                     max(0, now - published_at), 0, missing, vanished)  # fmt: skip


def look_again(store: Parts, looks: Sequence[Look]) -> None:
    now = store.now()
    store.db.each(
        "UPDATE crisper_publish SET missing = ?, due_at = ? WHERE message_id = ? AND due_at = ?",
        [(look.missing, now + look.due_in_ms, key(look.message_id), look.until) for look in looks],
    )


def declare(
    store: Parts, messages: Sequence[tuple[str, int]], by: str, evidence: dict[str, Any], due_in_ms: int
) -> list[str]:
    now, declared = store.now(), []
    mine = f"SELECT task_id, vanished FROM crisper_publish WHERE message_id = ? AND due_at = ?{store.db.lock}"
    for id, until in messages:
        message_id = key(id)
        rows = store.db.rows(mine, message_id, until)
        if not rows or not store.db.run(_ATTEMPT, now, message_id):
            continue  # another's, claimed meanwhile, or the task's next number is just given to another claim
        [(task_id, vanished)] = rows
        told = as_json({**evidence, "times": vanished + 1})
        store.db.run(_RECOVERY, told, now, message_id)
        store.db.run(_EVENT, now, storable(by), told, message_id, task_id)
        if vanished:
            store.db.run("DELETE FROM crisper_publish WHERE message_id = ?", message_id)
        else:
            store.db.run(
                "UPDATE crisper_publish SET vanished = 1, missing = 0, due_at = ? WHERE message_id = ?",
                *(now + due_in_ms, message_id),
            )
        declared.append(str(task_id))
    return declared
