"""Real workers in real processes, for tests: started, watched, killed by real signals.

What happened is read from a ledger that the tasks themselves append to, never
from the registry alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from celery import Celery
from kombu import pools
from kombu.utils.collections import eqhash

from crisper.store import migrate
from crisper.store.open import open_store
from crisper.store.sql import SqlStore

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[1]


def wait_for(what: str, condition: Callable[[], T], seconds: float = 20.0) -> T:
    """The condition's first true value, within a bound; else an assertion that names it."""
    give_up = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < give_up, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


class Line(NamedTuple):
    """One line of the ledger."""

    event: str  # start, end, or broken_off by an exception
    name: str
    key: str
    task_id: str
    pid: int
    at: float  # time.time()


class Worker:
    """One Celery worker's parent process and what hangs on it."""

    def __init__(
        self, fleet: Fleet, name: str, arguments: list[str], environment: dict[str, str],
        inside: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.name, self.log = name, fleet.folder / f"{name}.log"
        command = [*inside, sys.executable, "-m", "celery", "-A", fleet.module, "worker"]
        command += ["-n", f"{name}@test", "-l", "INFO", "--without-gossip", "--without-mingle", *arguments]
        with self.log.open("ab") as log:
            self._begins = log.tell()  # behind what earlier workers of this name said
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                cwd=ROOT, start_new_session=True,
            )  # fmt: skip
        self.pid = self.process.pid

    def text(self) -> str:
        return self.log.read_bytes()[self._begins :].decode(errors="replace")

    def ready(self, seconds: float = 30.0) -> Worker:
        wait_for(f"{self.name} ready: {self.text()[-2000:]}", lambda: self._is_ready(), seconds)
        return self

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.text()[-4000:]
        return f"{self.name}@test ready." in self.text()

    def children(self) -> dict[int, str]:
        """pid to command line of its direct children."""
        return {pid: _command(pid) for pid in children_of(self.pid)}

    def recorder(self) -> int:
        """The pid of its recorder."""
        return wait_for("a recorder", lambda: next(iter(self.recorders()), 0))

    def recorders(self) -> list[int]:
        return [pid for pid, command in self.children().items() if "crisper.recorder" in command]

    def pool(self) -> list[int]:
        return [pid for pid, command in self.children().items() if "crisper.recorder" not in command]

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> float:
        """SIGKILL to the parent; returns the moment, by time.time()."""
        at = time.time()
        self.send_signal(signal.SIGKILL)
        self.process.wait(10)
        return at

    def stop(self, number: int = signal.SIGTERM, seconds: float = 30.0) -> int:
        """Ask it to end, and wait until it has; its exit code."""
        self.send_signal(number)
        return self.process.wait(seconds)


class Fleet:
    """Workers of `tests.fleet_app` on one broker, backend and registry."""

    def __init__(
        self, folder: Path, *, broker: str = "filesystem://", backend: str = "", registry: str = "",
        plain: bool = False, **settings: Any,
    ) -> None:  # fmt: skip
        self.folder = folder
        for name in ("queue", "control", "results"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.registry_url = registry or f"sqlite:///{folder / 'registry.db'}"
        if not (registry or plain):
            migrate.ensure(self.registry_url)  # so that a test may ask it at once
        compiled = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        self.environment = {
            **compiled,  # as where it is installed
            "FLEET_FOLDER": str(folder),
            "FLEET_BROKER": broker,
            "FLEET_BACKEND": backend or f"file://{folder / 'results'}",
            "FLEET_PLAIN": "1" if plain else "",
            "CRISPER_REGISTRY_URL": self.registry_url,
            "CRISPER_JOURNAL_DIR": str(self.folder / "journal"),
            "CRISPER_PROBE_DIR": str(self.folder / "signs"),
            "PYTHONPATH": str(ROOT),
        }
        self.environment |= {f"CRISPER_{key.upper()}": str(value) for key, value in settings.items()}
        self.workers: list[Worker] = []
        self.module = "tests.fleet_app"
        self.app = self._client()

    def _client(self) -> Celery:
        """An app of this fleet in the test's own process, to publish and to ask for results."""
        from tests.fleet_app import make

        return make(self.environment)

    def worker(
        self, name: str, *arguments: str, wait: bool = True, inside: Sequence[str] = (), **environment: str
    ) -> Worker:
        """Start a worker (prefork, two processes, unless the arguments say otherwise).

        `inside`: a command that runs it, see `tests.acceptance.containers`.
        """
        given = [*arguments] if "-c" in arguments else ["-c", "2", *arguments]
        worker = Worker(self, name, given, {**self.environment, **environment}, inside)
        self.workers.append(worker)
        return worker.ready() if wait else worker

    def send(self, task: str, *args: Any, **options: Any) -> Any:
        """Publish `tests.fleet_app.<task>`; an AsyncResult."""
        return self.app.tasks[f"tests.fleet_app.{task}"].apply_async(args=args, **options)

    # -- what happened --------------------------------------------------------

    def ledger(self) -> list[Line]:
        with contextlib.suppress(FileNotFoundError):
            rows = [line.split() for line in (self.folder / "ledger").read_text().splitlines()]
            return [Line(*row[:4], int(row[4]), float(row[5])) for row in rows if len(row) == 6]
        return []

    def starts(self, task_id: str | None = None) -> list[Line]:
        return [x for x in self.ledger() if x.event == "start" and task_id in (None, x.task_id)]

    def ends(self, task_id: str | None = None) -> list[Line]:
        return [x for x in self.ledger() if x.event == "end" and task_id in (None, x.task_id)]

    def run_twice(self) -> list[str]:
        """Tasks whose body came to its end more than once."""
        return [id for id, times in Counter(line.task_id for line in self.ends()).items() if times > 1]

    @contextlib.contextmanager
    def store(self) -> Iterator[SqlStore]:
        store = open_store(self.registry_url)
        try:
            yield store
        finally:
            store.close()

    def rows(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        """Rows of the registry (`?` placeholders)."""
        with self.store() as store, store.db.write():
            return store.db.rows(sql, *params)

    def attempts(self, task_id: str) -> list[tuple[int, str]]:
        """`(number, state)` of a task, in order."""
        sql = "SELECT number, state FROM crisper_attempt WHERE task_id = ? ORDER BY number"
        return [(int(n), str(s)) for n, s in self.rows(sql, task_id)]

    def recoveries(self, task_id: str) -> list[tuple[int, str, str | None]]:
        """`(number, state, verdict)` of a task's lost attempts."""
        sql = "SELECT number, state, verdict FROM crisper_recovery WHERE task_id = ? ORDER BY number"
        return [(int(n), str(s), v) for n, s, v in self.rows(sql, task_id)]

    def incarnations(self) -> dict[str, list[str]]:
        """States of each node's incarnations, oldest first."""
        states: dict[str, list[str]] = {}
        for name, state in self.rows("SELECT hostname, state FROM crisper_incarnation ORDER BY started_at"):
            states.setdefault(str(name).partition("@")[0], []).append(str(state))
        return states

    def open_attempts(self) -> int:
        sql = "SELECT count(*) FROM crisper_attempt WHERE state IN ('claimed', 'running')"
        return int(self.rows(sql)[0][0])

    def errors(self) -> list[str]:
        """Lines of any worker's log that tell of trouble inside Crisper."""
        lines = [line for worker in self.workers for line in worker.text().splitlines()]
        return [line for line in lines if "internal error" in line or "Unrecoverable" in line]

    def story(self) -> str:
        """All that a failed test's reader wants: ledger, attempts, recoveries, logs."""
        parts = [f"ledger: {line}" for line in self.ledger()]
        for table in ("attempt", "recovery", "incarnation"):
            columns = {
                "attempt": "task_id, number, state, incarnation, seq, dispatched, reason",
                "recovery": "task_id, number, state, verdict, courier, evidence",
                "incarnation": "id, hostname, state, counter, generation, evidence",
            }[table]
            parts += [f"{table}: {row}" for row in self.rows(f"SELECT {columns} FROM crisper_{table}")]
        for worker in self.workers:
            parts.append(f"--- {worker.name} ---\n{worker.text()[-6000:]}")
        return "\n".join(parts)

    def close(self) -> None:
        """Nothing stays: workers, their pools, their recorders."""
        for worker in self.workers:
            for pid in [*worker.children(), worker.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
                    os.kill(pid, signal.SIGKILL)
            worker.process.wait(10)
        self._forget_pools()
        self.app.close()

    def _forget_pools(self) -> None:
        """Kombu would keep them for the next app with these URLs, whose server has closed them by then."""
        key = eqhash(self.app.connection_for_write())  # which its `pop` does not make of a connection
        for group in (pools.producers, pools.connections):
            group.pop(key, None)


def children_of(pid: int) -> list[int]:
    command = ["ps", "-o", "pid=", "--ppid", str(pid)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""
