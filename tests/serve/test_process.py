"""The real process: what it prints, where it listens, how it sweeps, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from crisper.core.states import State
from crisper.engine.pruner import DAY_MS, RETENTION
from crisper.faces.cli import cli
from tests.faces.scene import Scene
from tests.faces.test_doors import APP, a_held_task
from tests.store.acting import Actor

LINK = re.compile(r"open this once: (http://127\.0\.0\.1:\d+)(/enter\?token=[\w-]+)")


class Process:
    def __init__(self, where: list[str], *words: str, cwd: Path | None = None, **environment: str) -> None:
        command = [sys.executable, "-m", "crisper", *where, "serve", "--port", "0", *words]
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.popen = subprocess.Popen(command, stderr=self._said, cwd=cwd, env={**os.environ, **environment})

    @property
    def said(self) -> str:
        self._said.seek(0)
        return self._said.read()

    def wait_for(self, pattern: re.Pattern[str], seconds: float = 30) -> re.Match[str]:
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.popen.poll() is None:
            if found := pattern.search(self.said):
                return found
            time.sleep(0.05)
        raise AssertionError(f"{pattern.pattern} was never said: {self.said}")

    def close(self) -> None:
        self.popen.kill()
        self.popen.wait()
        self._said.close()

    def ends(self, sig: int) -> int:
        self.popen.send_signal(sig)
        return self.popen.wait(20)


@contextmanager
def serving(url: str, *words: str, **environment: str) -> Iterator[Process]:
    with started(Process(["--registry", url], *words, **environment)) as process:
        yield process


@contextmanager
def started(process: Process) -> Iterator[Process]:
    try:
        yield process
    finally:
        process.close()


def until(condition: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.1)


def test_it_prints_a_link_listens_on_loopback_only_and_ends_by_sigterm(scene: Scene) -> None:
    with serving(scene.url) as process:
        base, link = process.wait_for(LINK).groups()
        with httpx.Client(base_url=base) as client:
            assert client.get("/healthz").json() == {"status": "ok"}
            assert client.get("/api/v1/status").status_code == 401
            assert client.get(link).status_code == 303
            assert client.get("/api/v1/status").json()["tasks"]["quarantined"] == 1
            assert "server" not in client.get("/healthz").headers
        port = int(base.rpartition(":")[2])
        with socket.socket() as elsewhere:
            elsewhere.settimeout(2)
            mine = socket.gethostbyname(socket.gethostname())
            if not mine.startswith("127."):
                assert elsewhere.connect_ex((mine, port)) != 0
        assert process.ends(signal.SIGTERM) == 0
        assert "Traceback" not in process.said


def test_ctrl_c_ends_it_as_interrupted(scene: Scene) -> None:
    with serving(scene.url, "--no-sweep") as process:
        process.wait_for(LINK)
        assert process.ends(signal.SIGINT) == 130


def test_it_starts_without_a_registry_and_goes_on(tmp_path: Path) -> None:
    with serving(f"sqlite:///{tmp_path}/none.db") as process:
        base, link = process.wait_for(LINK).groups()
        process.wait_for(re.compile("crisper migrate"))
        with httpx.Client(base_url=base) as client:
            client.get(link)
            assert client.get("/readyz").json()["sweeper"] == "away"
            assert client.get("/api/v1/status").status_code == 503
            assert client.get("/healthz").status_code == 200
        assert process.ends(signal.SIGTERM) == 0


def test_its_sweeper_is_elected_and_declares_what_is_silent(tmp_path: Path, scene: Scene) -> None:
    silent = Actor(scene.store, hostname="celery@silent", lease_ms=900)
    silent.runs("silent-task", "its message")
    with scene.store.db.write():
        scene.store.db.run("DELETE FROM crisper_leader")
    with serving(
        scene.url, CRISPER_SWEEP_INTERVAL="0.1", CRISPER_LEASE="1", CRISPER_HEARTBEAT_INTERVAL="0.2"
    ) as process:
        base, link = process.wait_for(LINK).groups()
        process.wait_for(re.compile("declared lost: .*, by silence"))
        with httpx.Client(base_url=base) as client:
            client.get(link)
            until(lambda: client.get("/readyz").json()["sweeper"] == "leads")
            until(lambda: client.get("/api/v1/tasks/silent-task").json()["state"] == "recovering")
            assert client.get("/api/v1/status").json()["sweeper"]["leader"].startswith("serve:")


def test_while_it_is_elected_it_forgets_what_workers_keep_no_longer(scene: Scene) -> None:
    Actor(scene.store, about={RETENTION: [30, 90, 365]}).ends("old-task", "its message", State.SUCCEEDED)
    with scene.store.db.write():
        scene.store.db.run("DELETE FROM crisper_leader")
        scene.store.db.run(
            "UPDATE crisper_attempt SET received_at = received_at - ?, finished_at = finished_at - ?"
            " WHERE task_id = 'old-task'",
            *(40 * DAY_MS, 40 * DAY_MS),
        )
    with serving(scene.url, CRISPER_SWEEP_INTERVAL="0.1") as process:
        base, link = process.wait_for(LINK).groups()
        with httpx.Client(base_url=base) as client:
            client.get(link)
            until(lambda: client.get("/api/v1/tasks/old-task").status_code == 404)


def test_with_no_sweep_it_declares_nothing(scene: Scene) -> None:
    silent = Actor(scene.store, hostname="celery@silent", lease_ms=400)
    silent.runs("silent-task", "its message")
    environment = {"CRISPER_SWEEP_INTERVAL": "0.1", "CRISPER_LEASE": "1", "CRISPER_HEARTBEAT_INTERVAL": "0.2"}
    with serving(scene.url, "--no-sweep", **environment) as process:
        base, link = process.wait_for(LINK).groups()
        with httpx.Client(base_url=base) as client:
            client.get(link)
            until(lambda: client.get("/readyz").json()["sweeper"] == "off")
            time.sleep(1.5)  # more than two of its leases
            assert client.get("/api/v1/tasks/silent-task").json()["state"] == "running"


# -- with an app -------------------------------------------------------------


@pytest.mark.parametrize(
    ("broker", "status", "reason"),
    [("filesystem://", 200, "sent again"), ("redis://:hunter2@127.0.0.1:1/0", 202, "could not be sent now")],
)
def test_with_an_app_what_is_recovered_is_sent_at_once_or_left_to_a_worker(
    tmp_path: Path, broker: str, status: int, reason: str
) -> None:
    (tmp_path / "proj.py").write_text(APP)
    (tmp_path / "queue").mkdir()
    id, environment = a_held_task(tmp_path, broker)
    with started(Process(["-A", "proj"], "--no-sweep", cwd=tmp_path, **environment)) as process:
        base, link = process.wait_for(LINK).groups()
        with httpx.Client(base_url=base, timeout=30) as client:
            client.get(link)
            page = client.get(f"/task?id={id}").text
            [token] = re.findall(r'name="csrf" content="([\w-]+)"', page)
            assert f"crisper -A proj recover {id}" in page
            told = {"attempt": 1, "state": "held"}
            answer = client.post(f"/api/v1/recover/{id}", json=told, headers={"X-CSRF-Token": token})
            assert (answer.status_code, reason in answer.text) == (status, True), answer.text
            blind = client.get("/api/v1/status").json()["workers"]["blind"]
            assert blind == ([] if broker == "filesystem://" else None)
            assert "hunter2" not in answer.text
    sent = [file for file in (tmp_path / "queue").iterdir() if file.is_file() and "celery" in file.name]
    assert bool(sent) is (status == 200)


# -- refusals ----------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.255.255.1", "no such host.example"])
def test_beyond_loopback_it_refuses_without_accounts(sqlite_url: str, host: str) -> None:
    result = CliRunner().invoke(cli, ["--registry", sqlite_url, "serve", "--host", host])
    assert result.exit_code == 75
    assert "--accounts" in result.output


def test_a_file_of_accounts_with_nobody_in_it_is_refused(sqlite_url: str, tmp_path: Path) -> None:
    (tmp_path / "accounts").write_text("# nobody yet\n")
    words = ["--registry", sqlite_url, "serve", "--accounts", str(tmp_path / "accounts")]
    result = CliRunner().invoke(cli, [*words, "--host", "0.0.0.0"])
    assert (result.exit_code, "--add-account" in result.output) == (2, True)


def test_a_port_that_is_taken_is_said(sqlite_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(cli, ["--registry", sqlite_url, "serve", "--port", port])
    assert result.exit_code == 1
    assert "--port" in result.output


def test_a_certificate_needs_its_key(sqlite_url: str, tmp_path: Path) -> None:
    words = ["--registry", sqlite_url, "serve", "--port", "0", "--certificate", str(tmp_path / "none.pem")]
    assert CliRunner().invoke(cli, words).exit_code == 2
    result = CliRunner().invoke(cli, [*words, "--key", str(tmp_path / "none.key")])
    assert result.exit_code == 2
    assert "certificate" in result.output


def test_without_its_packages_it_says_what_to_install(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "starlette", None)
    result = CliRunner().invoke(cli, ["--registry", sqlite_url, "serve"])
    assert result.exit_code == 2
    assert "pip install 'celery-crisper[serve]'" in result.output


def test_no_secret_stands_on_a_command_line() -> None:
    """Others on the host can read it: a password is asked for, a token is made."""
    [*_, serve] = [cli.get_command(None, "serve")]  # type: ignore[arg-type]
    assert serve is not None
    words = {word for param in serve.params for word in param.opts}
    assert not [word for word in words if "password" in word or "token" in word or "secret" in word]


def test_an_open_stream_does_not_hold_its_end_up(scene: Scene) -> None:
    with serving(scene.url, "--no-sweep") as process:
        base, link = process.wait_for(LINK).groups()
        with httpx.Client(base_url=base) as client:
            client.get(link)
            with client.stream("GET", "/live") as stream:
                parts = stream.iter_lines()
                assert next(parts) == "retry: 5000"
                began = time.monotonic()
                process.popen.send_signal(signal.SIGTERM)
                list(parts)
                assert process.popen.wait(20) == 0
                assert time.monotonic() - began < 10
        assert "Cancel" not in process.said
