"""Apps for `crisper doctor`: one to which nothing can be objected, and two with all faults they can have."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from crisper.core.message import Kept, pack
from crisper.core.states import State
from crisper.store import migrate
from crisper.store.open import open_store
from tests.fleet import wait_for
from tests.store.acting import TOO_LARGE, Actor

BIN = Path(sys.executable).parent
CRISPER, CELERY = str(BIN / "crisper"), str(BIN / "celery")

RECOMMENDED = """
import os
import celery
import crisper

app = celery.Celery("proj", broker=os.environ["PROJ_BROKER"], backend=os.environ.get("PROJ_BACKEND"))
app.conf.update(
    task_default_queue="proj",
    worker_prefetch_multiplier=1,
    worker_soft_shutdown_timeout=20,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    crisper_registry_url=os.environ["PROJ_REGISTRY"],
    crisper_journal_dir=os.environ["PROJ_JOURNAL"],
    crisper_journal_max_bytes=2**22,
    broker_connection_retry_on_startup=True,
)
if app.conf.broker_url.startswith("amqp"):
    from kombu import Exchange, Queue
    dead = Exchange("dead", type="fanout")
    quorum = {"x-queue-type": "quorum", "x-delivery-limit": 20, "x-dead-letter-exchange": "dead"}
    app.conf.task_queues = [Queue("proj", queue_arguments=quorum)]
crisper.install(app)

@app.task(name="proj.add")
def add(x, y):
    return x + y

@app.task(name="proj.report", time_limit=1200)
def report(): ...

@app.task(name="proj.start")
def start():
    return celery.chord([add.s(1, 1)], report.si()).apply_async()
"""

BAD_ON_REDIS = """
import os
import celery
from celery import chord
import crisper

app = celery.Celery("proj", broker=os.environ["PROJ_BROKER"], backend="db+sqlite:///results.db")
app.conf.update(
    broker_read_url="redis://redis.example.invalid/0",
    broker_transport_options={"visibility_timeout": 3},
    accept_content=["json", "pickle"],
    crisper_registry_url=os.environ["PROJ_REGISTRY"],
    crisper_journal_dir=os.environ["PROJ_JOURNAL"],
    crisper_journal_max_bytes=2**50,
    crisper_heartbeat_interval=1,
    crisper_lease=4,
    crisper_retention_days=0,
)
crisper.install(app)

@app.task(name="proj.slow")
def slow(): ...

@app.task(name="proj.limited", time_limit=600)
def limited(): ...

@app.task(name="proj.killer", acks_late=True, reject_on_worker_lost=True)
def killer(): ...

@app.task(name="proj.add", ignore_result=True)
def add(x, y): ...

@app.task(name="proj.start")
def start():
    chord([add.s(1, 1)], add.s(1)).apply_async()
"""

PLAIN = """
import os
import celery
app = celery.Celery("plain", broker=os.environ["PROJ_BROKER"])
app.conf.broker_connection_retry_on_startup = True
"""

BAD_ON_RABBITMQ = """
import os
import celery
from celery import chord
from kombu import Queue

app = celery.Celery("proj", broker=os.environ["PROJ_BROKER"])
quorum = {"x-queue-type": "quorum", "x-delivery-limit": 3}
app.conf.update(
    worker_detect_quorum_queues=False,
    task_queues=[
        Queue("proj", queue_arguments={**quorum, "x-consumer-timeout": 60_000}),
        Queue("dying", queue_arguments={**quorum, "x-dead-letter-exchange": "nowhere"}),
    ],
    crisper_registry_url=os.environ["PROJ_REGISTRY"],
    crisper_journal_dir=os.environ["PROJ_JOURNAL"],
    crisper_rabbitmq_management_url="http://guest:guest@127.0.0.1:9",
)

@app.task(name="proj.killer", acks_late=True, reject_on_worker_lost=True, time_limit=600)
def killer(): ...

@app.task(name="proj.start")
def start():
    chord([killer.s()], killer.s()).apply_async()
"""


def doctor(
    folder: Path, *arguments: str, by: tuple[str, ...] = (CRISPER, "-A", "proj"), **environment: str
) -> subprocess.CompletedProcess[str]:
    """The command as users type it; `proj.py` is in the folder."""
    command = [*by, "doctor", *arguments]
    return subprocess.run(
        command, cwd=folder, env=_environment(environment), capture_output=True, text=True, timeout=50,
        check=False,
    )  # fmt: skip


@contextmanager
def worker(folder: Path, app: str, **environment: str) -> Iterator[None]:
    """A solo worker that is ready."""
    log = folder / f"{app}.log"
    command = [
        CELERY,
        "-A",
        app,
        "worker",
        "-P",
        "solo",
        "-n",
        f"{app}@test",
        "-l",
        "INFO",
        "--without-mingle",
    ]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, env=_environment(environment), stdout=out, stderr=out, start_new_session=True
        )
    try:
        wait_for(f"{app} is ready", lambda: "ready." in log.read_text(errors="replace"), 30)
        yield
    finally:
        process.terminate()
        process.wait(20)


def _environment(more: dict[str, str]) -> dict[str, str]:
    known = {
        key: value for key, value in os.environ.items() if not key.startswith(("CRISPER_", "TERMINATION"))
    }
    return {**known, "COLUMNS": "200", **more}


# -- histories ---------------------------------------------------------------


def bad_history(url: str) -> None:
    """Long tasks, messages that were not kept or have no id, a pause, and a worker of another version."""
    migrate.upgrade(url)
    with closing(open_store(url)) as store:
        about = {"app": "proj", "crisper": "0.1.0", "celery": "5.4.0"}
        one = Actor(store, hostname="celery@one", about=about)
        about = {"app": "proj", "crisper": "0.0.9", "celery": "5.7.0"}
        Actor(store, hostname="celery@two", host="two", boot_id="boot-2", about=about)
        one.ends("slow", "m1", State.SUCCEEDED, name="proj.slow", acks_late=False)
        one.ends("large", "m2", State.SUCCEEDED, name="proj.add", message=TOO_LARGE)
        one.ends("unnamed", "~unnamed/0/00000000", State.SUCCEEDED, name="proj.add")
        later = f"{time.strftime('%Y')[:2]}99-01-01T00:00:00+00:00"
        body = (
            b'[[], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": {"task": "proj.sum"}}]'
        )
        kept = Kept(body, "application/json", "utf-8", {"eta": later}, {}, "", "celery")
        one.claims("countdown", "m3", name="proj.add", message=pack(kept, limit=10_000))
        process = "0123456789abcdef"
        paused = Actor(store, id=f"a{process}", hostname="celery@paused")
        paused.is_lost()
        Actor(store, id=f"b{process}", hostname="celery@paused")
        with store.db.write():
            store.db.run("UPDATE crisper_attempt SET runtime_ms = 90000 WHERE task_id = 'slow'")


def good_history(url: str) -> None:
    """A migrated registry on which a task was run; whoever ran it has said goodbye."""
    migrate.upgrade(url)
    with closing(open_store(url)) as store:
        one = Actor(store, hostname="celery@one", about={"crisper": "0.1.0", "celery": "5.7.0"})
        one.ends("quick", "m1", State.SUCCEEDED, name="proj.add")
        assert store.say_goodbye(one.fence, reason="warm shutdown")
