"""An example of `examples/`, copied to a folder of the test's own and run there as its reader would."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fleet import ROOT, children_of, wait_for

EXAMPLES = ROOT / "examples"


def own_environment(folder: Path, redis: str) -> dict[str, str]:
    """Of somebody who has set nothing of Crisper's or Celery's; what is put on record is in this folder."""
    dropped = ("CRISPER_", "CELERY_", "DJANGO_", "PYTHONPATH")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    own = {"REDIS_URL": redis, "XDG_STATE_HOME": str(folder / "state"), "XDG_RUNTIME_DIR": str(folder)}
    return {**kept, **own, "PYTHONDONTWRITEBYTECODE": "1"}


class Shop:
    """One example on a Redis, with its registry where its own settings or the platform's have it."""

    def __init__(self, name: str, folder: Path, redis: str, app: str) -> None:
        self.folder, self.app = folder / name, app
        shutil.copytree(EXAMPLES / name, self.folder)
        self.environment = own_environment(folder, redis)
        self.state = folder / "state"
        self.registry = self.state / "crisper" / "registry.db"
        self._workers: list[subprocess.Popen[bytes]] = []

    def worker(self, name: str) -> subprocess.Popen[bytes]:
        """A started one, not necessarily ready."""
        command = [sys.executable, "-m", "celery", "-A", self.app, "worker", "-n", f"{name}@shop"]
        command += ["-c", "1", "--without-mingle", "--without-gossip"]
        with (self.folder / f"{name}.log").open("wb") as log:
            worker = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self._workers.append(worker)
        return worker

    def answer(self, script: str) -> Any:
        """What a program of the example's own prints, as JSON."""
        command = [sys.executable, "-c", script]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=40
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def attempts(self, task_id: str) -> list[tuple[int, str, str]]:
        """Number, state and worker of each attempt; none while the worker still makes its registry."""
        sql = (
            "SELECT a.number, a.state, i.hostname FROM crisper_attempt a"
            " JOIN crisper_incarnation i ON i.id = a.incarnation WHERE a.task_id = ? ORDER BY a.number"
        )
        with contextlib.suppress(sqlite3.OperationalError):
            with contextlib.closing(sqlite3.connect(f"file:{self.registry}?mode=ro", uri=True)) as registry:
                rows = registry.execute(sql, (task_id,)).fetchall()
            return [(int(n), str(s), str(h).partition("@")[0]) for n, s, h in rows]
        return []

    def await_attempts(self, task_id: str, *attempts: tuple[int, str, str]) -> None:
        try:
            wait_for(f"{attempts}", lambda: self.attempts(task_id) == [*attempts], 40)
        except AssertionError as late:
            raise AssertionError(f"{late}\n{self.attempts(task_id)}\n{self.logs()}") from None

    def logs(self) -> str:
        return "\n".join(log.read_text(errors="replace")[-3000:] for log in self.folder.glob("*.log"))

    def close(self) -> None:
        for worker in self._workers:
            for pid in [*children_of(worker.pid), worker.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            worker.wait(10)


@contextmanager
def shop(name: str, folder: Path, redis: str, app: str = "shop") -> Iterator[Shop]:
    with contextlib.closing(Shop(name, folder, redis, app)) as opened:
        yield opened
