"""The app that the demo's workers run: a shop that packs orders, four seconds each.

Both rounds run this very code; with Crisper it is one line more.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from celery import Celery, Task

import crisper

FOLDER, WITH_CRISPER, DEMO_PID = "_CRISPER_DEMO_FOLDER", "_CRISPER_DEMO_INSTALL", "_CRISPER_DEMO_PID"
PACKING_SECONDS = 4.0
DOCUMENTS, READING_SECONDS = 60, 0.2


def make(environment: Mapping[str, str], *, outbox: str = "queue") -> Celery:
    """Settings as careful as Celery allows: acknowledge late, give back what a lost process held."""
    folder = Path(environment[FOLDER])
    app = Celery("shop", broker="filesystem://", backend=f"file://{folder / 'results'}", set_as_current=False)
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            "data_folder_in": str(folder / "queue"),
            "data_folder_out": str(folder / outbox),
            "control_folder": str(folder / "control"),
            "polling_interval": 0.1,
        },
    )
    if environment.get(WITH_CRISPER):
        app.conf.crisper_registry_url = registry_url(folder)
        app.conf.crisper_journal_dir = str(folder / "journal")
        crisper.install(app)
    _tasks(app, folder / "ledger")
    return app


def registry_url(folder: Path) -> str:
    return f"sqlite:///{folder / 'registry.db'}"


def _tasks(app: Celery, ledger: Path) -> None:
    def write(event: str, task: Task, order: int) -> None:
        request = task.request
        with ledger.open("a") as file:
            file.write(f"{event} {order} {request.id} {request.hostname} {time.time():.6f}\n")

    @app.task(bind=True, name="shop.pack_order", shared=False)
    def pack_order(self: Task, order: int) -> str:
        write("start", self, order)
        time.sleep(PACKING_SECONDS)
        write("end", self, order)
        return f"order {order} is packed"

    @app.task(bind=True, name="shop.read_documents", shared=False)
    def read_documents(self: Task, count: int) -> str:
        attempt = crisper.current_attempt()
        done = attempt.last_checkpoint or 0
        write("start", self, done)
        for number in range(done, count):
            time.sleep(READING_SECONDS)
            write("read", self, number)
            attempt.checkpoint(number + 1)
            attempt.progress(number + 1, count)
        write("end", self, count)
        return f"{count} documents are read"


def _end_with_the_demo(pid: int) -> None:
    """Should the demo itself be killed, its workers do not stay behind (Linux)."""
    from celery.platforms import set_pdeathsig

    set_pdeathsig("SIGKILL")
    if os.getppid() != pid:
        raise SystemExit("the demo has ended")


app: Any = None
if FOLDER in os.environ:
    _end_with_the_demo(int(os.environ[DEMO_PID]))
    app = make(os.environ)
    app.set_current()
    app.set_default()
