"""One round's folder and worker processes; nothing of either is left when it closes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from crisper.errors import CrisperError
from crisper.faces.demo import app as shop
from crisper.faces.demo.ledger import Ledger, read

T = TypeVar("T")
Meanwhile = Callable[[], None] | None

PROCESSES = 8
READY_SECONDS = 40.0
#: A recorder outlives its worker for as long as it takes to write down the death: well under a second.
GONE_SECONDS = 15.0
#: Descriptors 3 to 5 are the recorder's own; the lifeline must come through above them.
_HIGH = 64


class DemoFailed(CrisperError):
    """The demo could not be shown; the message says why. It tells nothing about Crisper's promises."""


class Worker:
    """One Celery worker in a session of its own: Ctrl-C at the terminal is the demo's to handle."""

    def __init__(self, name: str, folder: Path, environment: dict[str, str], lifeline: int) -> None:
        self.name, self.log = f"{name}@demo", folder / f"{name}.log"
        command = [sys.executable, "-P", "-m", "celery", "-A", shop.__name__, "worker", "-n", self.name]
        command += ["-c", str(PROCESSES), "-l", "INFO", "--without-gossip", "--without-mingle"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[lifeline],
            )

    def is_ready(self) -> bool:
        text = self.log.read_text(errors="replace")
        if self.process.poll() is not None:
            raise DemoFailed(f"a worker ended before it was ready. Its last words:\n{text[-1500:]}")
        return f"{self.name} ready." in text

    def kill(self) -> float:
        """SIGKILL to the worker's parent process, and to nothing else; the moment, by time.time()."""
        at = time.time()
        self.process.kill()
        self.process.wait()
        return at

    def end(self) -> None:
        """SIGKILL to all that is left of its session: after `kill`, that is what the kernel left."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Stage:
    """Where one round is played."""

    def __init__(self, *, with_crisper: bool, check: Callable[[], None]) -> None:
        self.with_crisper, self._check = with_crisper, check
        self.folder = Path(tempfile.mkdtemp(prefix="crisper-demo-"))
        self.workers: list[Worker] = []
        self._client: Any = None
        self._lifeline, self._theirs = os.pipe()
        try:
            for name in ("queue", "outbox", "control", "results", "tmp"):
                (self.folder / name).mkdir()
            self.environment = self._environment()
        except BaseException:
            self.close()
            raise

    def _environment(self) -> dict[str, str]:
        """Ours, but nothing that configures somebody's real Celery or Crisper."""
        ours = {k: v for k, v in os.environ.items() if not k.startswith(("CELERY", "CRISPER"))}
        return {
            **ours,
            shop.FOLDER: str(self.folder),
            shop.WITH_CRISPER: "1" if self.with_crisper else "",
            shop.DEMO_PID: str(os.getpid()),
            # kombu's filesystem transport moves every message through the temporary folder.
            "TMPDIR": str(self.folder / "tmp"),
        }

    def start_workers(self, *names: str) -> None:
        """Every process that descends from a worker holds the lifeline: once none is left, it closes."""
        lifeline = fcntl.fcntl(self._theirs, fcntl.F_DUPFD_CLOEXEC, _HIGH)
        try:
            for name in names:
                self.workers.append(Worker(name, self.folder, self.environment, lifeline))
        finally:
            os.close(lifeline)
        self.wait("the workers to be ready", lambda: all(w.is_ready() for w in self.workers), READY_SECONDS)

    def worker(self, name: str) -> Worker:
        return next(worker for worker in self.workers if worker.name == name)

    def alive(self) -> set[str]:
        return {worker.name for worker in self.workers if worker.process.poll() is None}

    def wait(
        self, what: str, condition: Callable[[], T | None], seconds: float, meanwhile: Meanwhile = None
    ) -> T:
        """The condition's first true value. Raises `DemoFailed`, or `KeyboardInterrupt` if asked to end."""
        if not (value := self.poll(condition, seconds, meanwhile)):
            raise DemoFailed(f"waited {seconds:g} s in vain for {what}; is this machine very busy?")
        return value

    def poll(
        self, condition: Callable[[], T | None], seconds: float, meanwhile: Meanwhile = None
    ) -> T | None:
        """The same, but None if it is not true in time."""
        give_up = time.monotonic() + seconds
        while not (value := condition()) and time.monotonic() < give_up:
            self._check()
            if meanwhile is not None:
                meanwhile()
            time.sleep(0.03)
        self._check()
        return value or None

    def publish(self, order: int, task: str = "shop.pack_order") -> str:
        """Send one order, or another task with one argument; its task id.

        kombu names a file before it fills it: a worker sees it only whole."""
        with _no_settings_from_outside():
            if self._client is None:
                self._client = shop.make(self.environment, outbox="outbox")
            sent = self._client.tasks[task].delay(order)
        for file in (self.folder / "outbox").iterdir():
            file.rename(self.folder / "queue" / file.name)
        return str(sent.id)

    def ledger(self) -> Ledger:
        return read(self.folder / "ledger")

    def close(self) -> None:
        """End every process of this round, wait until all are gone, and remove the folder."""
        try:
            for worker in self.workers:
                worker.end()
            if self._client is not None:
                self._client.close()
            os.close(self._theirs)
            if not self._all_gone(GONE_SECONDS):
                self._end_strays()
                self._all_gone(GONE_SECONDS)
            os.close(self._lifeline)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _all_gone(self, seconds: float) -> bool:
        """Nobody ever writes to the lifeline: it becomes readable when the last holder is gone."""
        return bool(select.select([self._lifeline], [], [], seconds)[0])

    def _end_strays(self) -> None:
        """A recorder that hangs is known by its environment, where the system shows it (Linux)."""
        mine = f"{shop.FOLDER}={self.folder}".encode()
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mine in environ.read_bytes().split(b"\0"):
                    os.kill(int(environ.parent.name), signal.SIGKILL)


@contextmanager
def _no_settings_from_outside() -> Iterator[None]:
    """Celery reads CELERY_BROKER_URL and the like from the environment, whatever the app says."""
    aside = {key: os.environ.pop(key) for key in list(os.environ) if key.startswith("CELERY")}
    try:
        yield
    finally:
        os.environ.update(aside)
