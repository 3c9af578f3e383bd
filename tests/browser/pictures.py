"""Pictures of the dashboard, of a night in which two workers died.

    python -m tests.browser.pictures FOLDER [--all]

Those of docs/howto/serve.md; `--all`: every page, by day, by night and on a phone, to be looked at.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from crisper.core.states import State, VerdictKind
from crisper.store import migrate
from crisper.store.open import open_store
from crisper.store.sql import SqlStore
from tests.browser.chromium import chromium
from tests.browser.site import serving
from tests.faces.scene import KEPT, new_id
from tests.store.acting import SCOPE, Actor

PICTURES = {"triage": "/", "timeline-dark": "/timeline", "task": "/task?id={quarantine}"}
LOOKS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1200, "height": 800}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1200, "height": 800}},
    "phone": {"color_scheme": "light", "viewport": {"width": 380, "height": 800}},
}
PAGES = {
    "triage": "/",
    "running": "/running",
    "workers": "/workers",
    "timeline": "/timeline",
    "tasks": "/tasks",
    "failures": "/failures",
    "queues": "/queues",
    "audit": "/audit",
    "many": "/many?verb=recover",
    "task": "/task?id={quarantine}",
    "error": "/nowhere",
}
NAMES = ("shop.tasks.charge", "shop.tasks.mail", "shop.tasks.report", "shop.tasks.refund")
MINUTE_MS = 60_000


class Night:
    """Four workers; two of them died, and what they held came back, or waits for somebody."""

    def __init__(self, url: str) -> None:
        migrate.upgrade(url)
        self.store: SqlStore = open_store(url)
        self.ids: dict[str, str] = {}
        about = {"pool": "prefork", "concurrency": 8, "queues": ["celery", "mail"], "crisper": "0.1.0"}
        web = [
            Actor(self.store, hostname=f"celery@web-{n}", host=f"web-{n}", about=about, lease_ms=86_400_000)
            for n in range(1, 5)
        ]
        for n in range(240):
            state = State.FAILED if n % 12 == 1 else State.SUCCEEDED
            reason = f"ConnectionError: no answer from pay-{n % 3}.example" if state is State.FAILED else None
            claim = web[n % 2].runs(new_id(), f"m{n}", name=NAMES[n % 4], queue="celery")
            web[n % 2].finishes(claim, state, reason=reason, runtime_ms=400 + 37 * n % 900)
        for worker, minutes in ((web[2], 205), (web[3], 42)):
            self._dies(worker, minutes)
        again = Actor(self.store, hostname="celery@web-3", host="web-3", about=about, lease_ms=86_400_000)
        self._moved(again, started=201)
        for n in range(9):
            claim = (web[0], web[1], again)[n % 3].runs(new_id(), f"r{n}", name=NAMES[n % 4], queue="celery")
            self._sql("UPDATE crisper_attempt SET started_at = started_at - ? WHERE task_id = ?",
                      900 * n * n, claim.task_id)  # fmt: skip
        for worker in web[:2]:
            self._moved(worker, started=330)
        assert self.store.campaign("sweeper", web[0].id, None)

    def _dies(self, worker: Actor, minutes: int) -> None:
        """So many minutes ago, with six running: most are sent again, one waits for somebody."""
        held = {new_id(): VerdictKind.RESEND for _ in range(6)}
        waiting = next(iter(held))
        held[waiting] = VerdictKind.QUARANTINE if minutes < 60 else VerdictKind.HOLD
        self.ids[str(held[waiting])] = waiting
        for n, id in enumerate(held):
            worker.runs(id, f"m {id}", name=NAMES[n % 4], queue="celery", message=KEPT,
                        args_preview='[4711, "EUR"]', kwargs_preview='{"token": "[redacted]"}')  # fmt: skip
        worker.is_lost()
        for case in self.store.take_cases(worker.id, SCOPE, limit=100):
            kind = held[case.recovery.task_id]
            why = {
                VerdictKind.RESEND: "acks_late: it may run twice, and its message is in no queue",
                VerdictKind.HOLD: "its policy is to wait for a person",
                VerdictKind.QUARANTINE: "its body was lost once, and its loss budget is 0",
            }[kind]
            evidence = {"how": "silence", "losses": 1}
            decided = self.store.decide(case.recovery, kind, why, evidence, by="celery@web-1")
            assert decided is not None
            if kind is VerdictKind.RESEND:
                assert self.store.complete(decided, by="celery@web-1", data={})
                other = Actor(self.store, hostname="celery@web-1", lease_ms=86_400_000)
                other.ends(case.recovery.task_id, case.recovery.message_id, State.SUCCEEDED)
                assert self.store.say_goodbye(other.fence, reason="warm shutdown")
                self._sql("DELETE FROM crisper_incarnation WHERE id = ?", other.id)
        ago = minutes * MINUTE_MS
        self._moved(worker, started=320, ended=minutes)
        for id in held:
            self._sql(
                "UPDATE crisper_attempt SET received_at = received_at - ?, started_at = started_at - ?,"
                " finished_at = finished_at - ? WHERE task_id = ?",
                *(ago + 3 * MINUTE_MS, ago + 3 * MINUTE_MS, ago, id),
            )
            self._sql("UPDATE crisper_recovery SET done_at = done_at - ? WHERE task_id = ?", ago, id)
            self._sql("UPDATE crisper_event SET at = at - ? WHERE task_id = ?", ago, id)
        self._sql(
            "UPDATE crisper_event SET at = at - ? WHERE incarnation = ? AND task_id IS NULL", ago, worker.id
        )

    def _moved(self, worker: Actor, *, started: int, ended: int | None = None) -> None:
        self._sql("UPDATE crisper_incarnation SET started_at = started_at - ? WHERE id = ?",
                  started * MINUTE_MS, worker.id)  # fmt: skip
        if ended is not None:
            self._sql("UPDATE crisper_incarnation SET ended_at = ended_at - ? WHERE id = ?",
                      ended * MINUTE_MS, worker.id)  # fmt: skip

    def _sql(self, statement: str, *params: object) -> None:
        with self.store.db.write():
            self.store.db.run(statement, *params)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--all", action="store_true", help="every page in every look")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        night = Night(url := f"sqlite:///{place}/registry.db")
        with closing(night.store), serving(url) as site, chromium() as browser:
            wanted = {f"{name}-{look}": path for name, path in PAGES.items() for look in LOOKS}
            for name, path in (wanted if options.all else PICTURES).items():
                look = LOOKS.get(name.rpartition("-")[2], LOOKS["light"])
                with site.page(browser, path.format(**night.ids), **look) as page:
                    page.screenshot(path=options.folder / f"{name}.png", full_page=options.all)
    return 0


if __name__ == "__main__":
    sys.exit(main())
