"""A control group of the test's own (version 1): processes that are frozen, starved of CPU or of memory."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self
from uuid import uuid4

from tests.fleet import Worker, wait_for
from tests.servers import Unavailable

ROOT = Path("/sys/fs/cgroup")


class Group:
    """`with Group("freezer") as group:`; what is still in it at the end is killed."""

    def __init__(self, controller: str) -> None:
        self._parent = ROOT / controller
        self._folder = self._parent / f"crisper-{os.getpid()}-{uuid4().hex[:8]}"
        try:
            (self._parent / "cgroup.procs").stat()
            self._folder.mkdir()
        except OSError as exc:
            raise Unavailable(f"control groups of version 1 for {controller} need root: {exc}") from None

    def set(self, name: str, value: str) -> None:
        (self._folder / name).write_text(value)

    def get(self, name: str) -> str:
        return (self._folder / name).read_text().strip()

    def inside(self) -> list[str]:
        """The command that runs another in it from its beginning."""
        return ["sh", "-c", f'echo $$ >{self._folder}/cgroup.procs && exec "$@"', "sh"]

    def take(self, worker: Worker) -> None:
        """The worker and all that it has started; what it starts from now on is in it by itself."""
        for pid in [worker.pid, *worker.children()]:
            self.set("cgroup.procs", str(pid))

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """No process of it runs, and none is told."""
        self.set("freezer.state", "FROZEN")
        wait_for("all are frozen", lambda: self.get("freezer.state") == "FROZEN")
        try:
            yield
        finally:
            self.set("freezer.state", "THAWED")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.get("cgroup.procs").split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        with contextlib.suppress(FileNotFoundError, AssertionError):
            wait_for("it is empty", lambda: not self.get("cgroup.procs"), 10)
            self._folder.rmdir()
