"""A registry with a task in every state, filled through the store's own verbs."""

from __future__ import annotations

import uuid

from crisper.core.message import Kept, pack
from crisper.core.model import Pulse
from crisper.core.states import State, VerdictKind
from crisper.store import migrate
from crisper.store.open import open_store
from crisper.store.sql import SqlStore
from tests.store.acting import SCOPE, TOO_LARGE, Actor

#: What a terminal would obey, or rich would.
HOSTILE = (
    "\x1b[31mred\x1b[0m",
    "one\r\ntwo",
    "\u202egnp.exe",
    "[red]not[/red] [bold",
    ":warning: {name} %s",
    "\x9b31m\x07\x00",
    "z" + "\u0301" * 300,
    "n" * (1 << 20),
)

#: What SQL would obey.
INJECTIONS = (
    "' OR '1'='1",
    "'; DROP TABLE crisper_attempt; --",
    '" OR ""="',
    "%",
    "_",
    "\\",
    "\\'",
    "[a-z]",
    "%s %(x)s :name ? $1",
    "\x00",
    "\udcff",
    "1); SELECT pg_sleep(10); --",
    "é" * 5000,
)


def new_id() -> str:
    return str(uuid.uuid4())


KEPT = pack(Kept(b"exact bytes", "application/json", "utf-8", {}, {}, "", "celery"), limit=1000)
PREVIEWS = {"args_preview": '[42, "x"]', "kwargs_preview": '{"currency": "EUR"}'}


class Scene:
    """Workers `celery@one` (alive), `celery@two` (lost) and `celery@three` (gone), and their tasks."""

    def __init__(self, url: str) -> None:
        migrate.upgrade(url)
        self.url = url
        self.store: SqlStore = open_store(url)
        about = {"pool": "prefork", "concurrency": 8, "queues": ["celery", "mail"], "crisper": "0.1.0"}
        self.one = Actor(self.store, hostname="celery@one", host="one", about=about, lease_ms=3_600_000)
        self.ids: dict[str, str] = {}
        self._lost_ones()
        self._closed_ones()
        running = self.one.runs(*self._new("running"), name="shop.charge", queue="mail")
        told = {"progress": {"done": 3, "total": 7, "note": "[red]reads", "age_ms": 0}, "memory": 412 << 20}
        assert self.store.renew(self.one.fence, Pulse(0, 0, None, {}, {str(running.seq): told}))
        self.one.claims(*self._new("claimed"))
        three = Actor(self.store, hostname="celery@three")
        assert self.store.say_goodbye(three.fence, reason="warm shutdown")
        self.store.close_lost(three.id, by="sweeper")

    def close(self) -> None:
        self.store.close()

    def _new(self, name: str) -> tuple[str, str]:
        self.ids[name] = new_id()
        return self.ids[name], f"message of {name}"

    def _closed_ones(self) -> None:
        for state in (State.SUCCEEDED, State.FAILED, State.RETRIED, State.REJECTED, State.REVOKED,
                      State.EXPIRED, State.RELEASED):  # fmt: skip
            self.one.ends(*self._new(state.value), state)

    def _lost_ones(self) -> None:
        two = Actor(self.store, hostname="celery@two", lease_ms=20_000)
        verdicts = {
            "quarantined": VerdictKind.QUARANTINE,
            "held": VerdictKind.HOLD,
            "not kept": VerdictKind.HOLD,
            "recovering": VerdictKind.AWAIT_REDELIVERY,
            "failed by policy": VerdictKind.FAIL,
            "settled": VerdictKind.SETTLED,
            "discarded": VerdictKind.HOLD,
            "recovered": VerdictKind.RESEND,
        }
        for name in verdicts:
            message = TOO_LARGE if name == "not kept" else KEPT
            two.runs(*self._new(name), name=f"shop.{name}", message=message, **PREVIEWS)
        two.is_lost()
        self.two = two
        for case in self.store.take_cases(self.one.id, SCOPE, limit=100):
            [name] = [n for n, id in self.ids.items() if id == case.recovery.task_id]
            verdict = verdicts[name]
            done = self.store.decide(
                case.recovery,
                verdict,
                f"the reason of {name}",
                {"losses": 1, "acks_late": True},
                by="celery@one",
            )
            assert done is not None
            if verdict in (VerdictKind.FAIL, VerdictKind.RESEND):
                assert self.store.complete(done, by="celery@one", data={})
        assert self.store.discard(self.ids["discarded"], by="ann@desk", reason="the order was cancelled")
        self.one.ends(self.ids["recovered"], "message of recovered", State.SUCCEEDED, **PREVIEWS)
        assert self.store.campaign("sweeper", self.one.id, None)
