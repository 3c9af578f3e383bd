"""The demo, for real: what it shows, and that nothing of it stays behind however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fleet import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="asks /proc which processes are left"),
]


class Demo:
    """A run of `crisper demo` with a temporary folder of its own."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.folder = folder / "demo"
        self.folder.mkdir()
        self._errors = (folder / "stderr").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "crisper", "demo", *arguments],
            env={**os.environ, **environment, "TMPDIR": str(self.folder)}, cwd=folder,
            stdout=subprocess.PIPE, stderr=self._errors, text=True, start_new_session=True,
        )  # fmt: skip

    def end(self, seconds: float = 120) -> tuple[int, str]:
        """Exit code and stdout."""
        said, _ = self.process.communicate(timeout=seconds)
        self._errors.close()
        return self.process.returncode, said

    def errors(self) -> str:
        return (self.folder.parent / "stderr").read_text()

    def processes(self) -> dict[int, str]:
        """pid to command line of every process that the demo started, and of what those started."""
        mine = str(self.folder).encode()
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if mine in (entry / "environ").read_bytes() and int(entry.name) != self.process.pid:
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
        return found

    def files(self) -> list[str]:
        return [str(path) for path in self.folder.rglob("*")]

    def lines(self) -> int:
        """Of the tasks' ledger."""
        return sum(len(path.read_text().splitlines()) for path in self.folder.glob("*/ledger"))


def test_the_demo_loses_nothing_with_crisper_tells_it_in_json_and_leaves_nothing(tmp_path: Path) -> None:
    somebodys = {
        "CELERY_BROKER_URL": "redis://nowhere.invalid/0",
        "CRISPER_REGISTRY_URL": "postgresql://nowhere.invalid/x",
    }
    demo = Demo(tmp_path, "--json", **somebodys)
    code, said = demo.end()
    assert code == 0, demo.errors()
    told = json.loads(said)
    assert list(told) == ["celery_alone", "with_crisper"]
    alone, crisper = told["celery_alone"], told["with_crisper"]
    assert list(alone) == ["tasks", "completed", "lost", "run_twice"]
    assert alone["tasks"] == 12
    assert alone["completed"] + alone["lost"] == 12
    assert alone["lost"] > 0
    assert {key: crisper[key] for key in alone} == {"tasks": 12, "completed": 12, "lost": 0, "run_twice": 0}
    assert crisper["recovered"] == len(crisper["seconds_to_recover"]) > 0
    assert max(crisper["seconds_to_recover"]) < 4.0
    assert "Warning" not in demo.errors()
    assert demo.processes() == {}
    assert demo.files() == []


def test_the_long_demo_goes_on_at_the_document_where_its_worker_died(tmp_path: Path) -> None:
    demo = Demo(tmp_path, "--long", "--json")
    code, said = demo.end()
    assert code == 0, demo.errors()
    told = json.loads(said)["long"]
    assert list(told) == ["documents", "read", "read_twice", "died_at", "resumed_at", "seconds_to_resume"]
    assert (told["documents"], told["read"]) == (60, 60)
    assert told["read_twice"] <= 1
    assert 20 <= told["died_at"] <= told["resumed_at"] + 1 < 60
    assert demo.processes() == {}
    assert demo.files() == []


def _workers_starting(demo: Demo) -> bool:
    return len(demo.processes()) >= 2


def _tasks_running(demo: Demo) -> bool:
    return demo.lines() >= 2


def _recorders_at_work(demo: Demo) -> bool:
    return any("crisper.recorder" in command for command in demo.processes().values()) and demo.lines() >= 2


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        (_workers_starting, signal.SIGINT),
        (_tasks_running, signal.SIGTERM),
        (_recorders_at_work, signal.SIGINT),
    ],
    ids=["starting", "running", "recording"],
)
def test_an_interrupted_demo_leaves_no_process_and_no_file(
    moment: Callable[[Demo], bool], number: int, tmp_path: Path
) -> None:
    demo = Demo(tmp_path)
    wait_for("the moment", lambda: moment(demo), 90)
    demo.process.send_signal(number)
    code, _ = demo.end(40)
    assert code == 130
    assert demo.errors() == "crisper: interrupted\n"
    assert demo.processes() == {}
    assert demo.files() == []


def test_a_demo_whose_worker_fails_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    demo = Demo(tmp_path)
    workers = wait_for("two workers", lambda: [p for p, c in demo.processes().items() if "celery" in c], 60)
    os.kill(workers[0], signal.SIGKILL)
    code, _ = demo.end(60)
    assert code == 1
    assert "a worker ended before it was ready" in demo.errors()
    assert demo.processes() == {}
    assert demo.files() == []


def test_workers_of_a_killed_demo_end_with_it(tmp_path: Path) -> None:
    """Its folder stays: nobody is left who could remove it."""
    demo = Demo(tmp_path)
    wait_for("two workers", lambda: len(demo.processes()) >= 2, 60)
    demo.process.kill()
    wait_for("no process left", lambda: demo.processes() == {}, 20)
    demo.end()
