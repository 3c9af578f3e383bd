"""Who acts in the contract's tests: workers, and a registry that can be looked into."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Collection
from typing import Any

from crisper.core.gate import UNDECIDED_MS
from crisper.core.model import (
    Answer,
    Attempt,
    Case,
    Checkpoint,
    ChildLost,
    Claim,
    Fence,
    Finish,
    Incarnation,
    Message,
    Note,
    Pulse,
    Record,
    Recovery,
    Start,
    Worker,
)
from crisper.core.states import OnLost, State, VerdictKind
from crisper.core.text import key
from crisper.store import rows, sql
from crisper.store.base import Store
from crisper.store.memory import Event, MemoryStore
from crisper.store.open import open_store

EVENTS = "SELECT at, kind, task_id, number, incarnation, seq, actor, data FROM crisper_event ORDER BY id"

SCOPE = "scope-1"
PULSE = Pulse(11, 22, 3, {"note": "fine"})
KEPT = Message(b"exact bytes", '{"headers": {}}', 11)
TOO_LARGE = Message(None, "{}", 99_999_999, "95.4 MiB > 16 MiB")


class Registry:
    """A store, further stores on the same registry, and a look at what is on record."""

    store: Any

    def another(self) -> Any:
        raise NotImplementedError

    def attempts(self, task_id: str) -> list[Attempt]:
        raise NotImplementedError

    def recoveries(self, task_id: str) -> list[Recovery]:
        raise NotImplementedError

    def all_events(self) -> list[Event]:
        raise NotImplementedError

    def worker(self, id: str) -> Worker:
        raise NotImplementedError

    def body(self, task_id: str, number: int) -> bytes | None:
        raise NotImplementedError

    def checkpoint(self, task_id: str) -> tuple[int, str, str] | None:
        """Number, data and preview of the task's last one."""
        raise NotImplementedError

    def running(self, id: str) -> dict[str, Any]:
        """What the heartbeats of an incarnation told of its attempts."""
        raise NotImplementedError

    def nobody_decides(self) -> None:
        """No courier takes up the losses, for as long as the gate waits for one."""
        self.later(UNDECIDED_MS)

    def later(self, ms: int) -> None:
        """Move the registry's clock on, as far as recoveries are concerned."""
        raise NotImplementedError

    def close(self) -> None:
        self.store.close()

    def events(self, kind: str, task_id: str | None = None) -> list[Event]:
        wanted = None if task_id is None else key(task_id)
        return [e for e in self.all_events() if e.kind == kind and wanted in (None, e.task_id)]

    def attempt(self, task_id: str, number: int = 1) -> Attempt:
        return self.attempts(task_id)[number - 1]

    def recovery(self, task_id: str, number: int = 1) -> Recovery:
        return next(r for r in self.recoveries(task_id) if r.number == number)

    def states(self, task_id: str) -> list[State]:
        return [attempt.state for attempt in self.attempts(task_id)]

    def joins(self, **about: Any) -> Actor:
        return Actor(self.store, **about)

    def take(self, courier: str = "courier", scope: str = SCOPE, limit: int = 100) -> list[Case]:
        cases: list[Case] = self.store.take_cases(courier, scope, limit=limit)
        return cases

    def decided(self, task_id: str, verdict: VerdictKind, **how: Any) -> Recovery:
        """The pending recovery of the task's loss, taken and decided."""
        [case] = [c for c in self.take() if c.recovery.task_id == key(task_id)]
        decided = self.store.decide(case.recovery, verdict, "because", {"seen": 1}, by="courier", **how)
        assert decided is not None
        return decided


class MemoryRegistry(Registry):
    def __init__(self) -> None:
        self.now = 1_000_000
        self.store = MemoryStore(clock=lambda: self.now)

    def another(self) -> Store:
        return self.store

    def attempts(self, task_id: str) -> list[Attempt]:
        return self.store.attempts(task_id)

    def recoveries(self, task_id: str) -> list[Recovery]:
        return self.store.recoveries(task_id)

    def all_events(self) -> list[Event]:
        return self.store.events()

    def worker(self, id: str) -> Worker:
        worker = self.store.worker(id)
        assert worker is not None
        return worker

    def body(self, task_id: str, number: int) -> bytes | None:
        message = self.store._messages.get((key(task_id), number))
        return message.body if message else None

    def checkpoint(self, task_id: str) -> tuple[int, str, str] | None:
        kept = self.store.checkpoint(task_id)
        return None if kept is None else (kept[0], *kept[2:])

    def running(self, id: str) -> dict[str, Any]:
        return self.store.running(id)

    def later(self, ms: int) -> None:
        self.now += ms


class SqlRegistry(Registry):
    def __init__(self, url: str) -> None:
        self.url = url
        self.store = open_store(url)
        self._opened = [self.store]

    def another(self) -> sql.SqlStore:
        self._opened.append(open_store(self.url))
        return self._opened[-1]

    def close(self) -> None:
        for store in self._opened:
            store.close()

    def rows(self, statement: str, *params: Any) -> list[Any]:
        with self.store.db.write():
            return list(self.store.db.rows(statement, *params))

    def attempts(self, task_id: str) -> list[Attempt]:
        columns = f"SELECT {rows.ATTEMPT} FROM crisper_attempt WHERE task_id = ? ORDER BY number"
        return [rows.as_attempt(row) for row in self.rows(columns, key(task_id))]

    def recoveries(self, task_id: str) -> list[Recovery]:
        columns = f"SELECT {rows.RECOVERY} FROM crisper_recovery WHERE task_id = ? ORDER BY number"
        return [rows.as_recovery(row) for row in self.rows(columns, key(task_id))]

    def all_events(self) -> list[Event]:
        return [Event(*row[:-1], json.loads(row[-1])) for row in self.rows(EVENTS)]

    def worker(self, id: str) -> Worker:
        [row] = self.rows(f"SELECT {rows.WORKER} FROM crisper_incarnation WHERE id = ?", id)
        return rows.as_worker(row)

    def body(self, task_id: str, number: int) -> bytes | None:
        columns = "SELECT body FROM crisper_attempt WHERE task_id = ? AND number = ?"
        [(body,)] = self.rows(columns, key(task_id), number)
        return None if body is None else bytes(body)

    def checkpoint(self, task_id: str) -> tuple[int, str, str] | None:
        columns = "SELECT number, data, preview FROM crisper_checkpoint WHERE task_id = ?"
        return next((tuple(row) for row in self.rows(columns, key(task_id))), None)

    def running(self, id: str) -> dict[str, Any]:
        told = self.rows("SELECT told FROM crisper_running WHERE incarnation = ?", id)
        return dict(json.loads(told[0][0])) if told else {}

    def later(self, ms: int) -> None:
        with self.store.db.write():
            self.store.db.run(
                "UPDATE crisper_recovery SET due_at = due_at - ?, created_at = created_at - ?", ms, ms
            )


def incarnation(id: str | None = None, **about: Any) -> Incarnation:
    return Incarnation(
        **{
            "id": id or uuid.uuid4().hex,
            "hostname": "celery@host",
            "scope": SCOPE,
            "host": "host",
            "boot_id": "boot",
            "pid_namespace": "pid:[1]",
            "pid": 100,
            "pid_start": 200,
            "lease_ms": 20_000,
            "heartbeat_ms": 4_000,
            "about": {"pool": "prefork"},
            **about,
        }
    )


def claim(seq: int, task_id: str = "t", message_id: str = "m", **about: Any) -> Claim:
    return Claim(
        **{
            "seq": seq,
            "task_id": task_id,
            "message_id": message_id,
            "identified": True,
            "name": "app.add",
            "queue": "celery",
            "retries": 0,
            "redelivered": False,
            "acks_late": True,
            "dispatched": False,
            "tag": f"tag-{seq}",
            "on_lost": OnLost.RESEND,
            "loss_budget": 3,
            "message": KEPT,
            "args_preview": "[]",
            "kwargs_preview": "{}",
            # What comes again has waited as long as a loss that nobody decides is waited for.
            "age_ms": UNDECIDED_MS if about.get("redelivered") else 0,
            **about,
        }
    )


class Actor:
    """One incarnation with its recorder, which numbers its records."""

    def __init__(self, store: Any, **about: Any) -> None:
        self.store = store
        self.about = incarnation(**about)
        self.fence: Fence = store.enroll(self.about)
        self._numbers = itertools.count(1)

    @property
    def id(self) -> str:
        return self.fence.incarnation

    def next(self) -> int:
        return next(self._numbers)

    def record(self, *records: Record, renewing: Collection[str] = ()) -> list[Answer]:
        answers: list[Answer] = self.store.record(self.fence, records, renewing=renewing)
        return answers

    def wants(self, task_id: str = "t", message_id: str = "m", **about: Any) -> Claim:
        return claim(self.next(), task_id, message_id, **about)

    def asks(self, wanted: Claim, renewing: Collection[str] = ()) -> Answer:
        [answer] = self.record(wanted, renewing=renewing)
        return answer

    def claims(self, task_id: str = "t", message_id: str = "m", **about: Any) -> Claim:
        """A claim that is granted."""
        wanted = self.wants(task_id, message_id, **about)
        answer = self.asks(wanted)
        assert answer.kind == "granted", answer
        return wanted

    def runs(self, task_id: str = "t", message_id: str = "m", **about: Any) -> Claim:
        """A claim that is granted and accepted by the pool."""
        wanted = self.claims(task_id, message_id, **about)
        self.record(start(wanted))
        return wanted

    def finish(self, of: Claim, state: State = State.SUCCEEDED, **about: Any) -> Finish:
        return Finish(self.next(), of.seq, of.task_id, state, **about)

    def finishes(self, of: Claim, state: State = State.SUCCEEDED, **about: Any) -> Answer:
        [answer] = self.record(self.finish(of, state, **about))
        return answer

    def ends(self, task_id: str, message_id: str, state: State, **about: Any) -> Claim:
        """An attempt that ran and closed in this state."""
        wanted = self.runs(task_id, message_id, **about)
        assert self.finishes(wanted, state).kind == "closed"
        return wanted

    def loses_child(self, of: Claim, counted: bool = True) -> Answer:
        lost = ChildLost(self.next(), of.seq, of.task_id, counted, {"signal": 9})
        [answer] = self.record(lost)
        return answer

    def saves(self, of: Claim, data: str) -> Answer:
        """A checkpoint of its attempt."""
        made = Checkpoint(-self.next(), of.seq, of.task_id, data, f"preview of {data}")
        [answer] = self.record(made)
        return answer

    def notes(self, kind: str, task_id: str | None = None) -> Note:
        return Note(self.next(), kind, task_id, {"n": 1})

    def is_declared(self) -> None:
        [counter] = [w.counter for w in self.store.alive() if w.id == self.id]
        assert self.store.declare_lost(self.id, counter, by="sweeper", evidence={"how": "silence"})

    def is_lost(self) -> None:
        """Declared, and its open attempts closed."""
        self.is_declared()
        while self.store.close_lost(self.id, by="sweeper").more:
            pass


def start(of: Claim, pid: int = 4242) -> Start:
    return Start(of.seq, of.task_id, pid, 777 if pid else 0)
