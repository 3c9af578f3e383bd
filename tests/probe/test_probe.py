"""`crisper-probe`: what a sign of life says, which worker is meant, and what asking costs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from crisper.celery import standing
from crisper.engine import sign
from crisper.engine.sign import Sign
from crisper.faces import probe
from crisper.recorder.sign import SignThread
from crisper.recorder.witness import pid_namespace, process_start

NOW = 10_000_000


def said(**fields: Any) -> Sign:
    """Of a worker that lives and works, unless the fields say otherwise."""
    well: dict[str, Any] = {
        "worker": "celery@here",
        "pid": os.getpid(),
        "pid_start": process_start(os.getpid()),
        "pid_namespace": pid_namespace(),
        "at": NOW - 1000,
        "turned": NOW - 1000,
        "ticked": NOW - 1000,
        "records": "registry",
        "consumes": True,
    }
    return Sign(**{**well, **fields})


@pytest.mark.parametrize(
    ("fields", "live", "ready", "because"),
    [
        ({}, True, True, "is ready, on record in the registry"),
        ({"records": "journal"}, True, True, "in the journal"),
        ({"records": ""}, True, False, "is not enrolled in the registry yet"),
        ({"why": "the registry does not answer"}, True, False, "the registry does not answer"),
        ({"consumes": False}, True, False, "it is not connected"),
        ({"at": NOW - 29_000}, True, True, "is ready"),
        ({"at": NOW - 31_000}, False, False, "its recorder has given no sign for 31 s"),
        ({"turned": NOW - 31_000}, False, False, "its recorder has given no sign for 31 s"),
        ({"ticked": NOW - 59_000}, True, True, "is ready"),
        ({"ticked": NOW - 61_000}, False, False, "its loop has not gone round for 61 s"),
        ({"ticked": NOW - 900_000, "stands": "task", "stood_at": NOW - 1000}, True, True, "is ready"),
        ({"ticked": NOW - 900_000, "stands": "broker", "stood_at": NOW}, True, False, "waits for the broker"),
        ({"ticked": NOW - 900_000, "stands": "shutdown", "stood_at": NOW}, True, False, "it shuts down"),
        ({"ticked": NOW - 900_000, "stands": "", "stood_at": NOW}, False, False, "for 900 s"),
        ({"ticked": NOW - 900_000, "stands": "task", "stood_at": NOW - 16_000}, False, False, "for 900 s"),
    ],
)
def test_what_is_said_decides(fields: dict[str, Any], live: bool, ready: bool, because: str) -> None:
    one = said(**fields)
    assert probe.live(one, NOW, probe.LOOP_SECONDS)[0] is live
    answer, sentence = probe.ready(one, NOW, probe.LOOP_SECONDS)
    assert answer is ready
    assert because in sentence
    assert "\n" not in sentence


def test_a_sign_is_read_as_it_was_written(tmp_path: Path) -> None:
    one = said(worker="celery@a=b\nat=0", why="no \x1b[31m more", stands="task", stood_at=5)
    sign.write(str(tmp_path), "one", one)
    (tmp_path / "half.sign").write_text("worker=x\npid=")
    [again] = sign.read(str(tmp_path))
    assert again.worker == "celery@a=b at=0"  # a name cannot write a line of its own
    others = [name for name in Sign.__slots__ if name != "worker"]
    assert [getattr(again, name) for name in others] == [getattr(one, name) for name in others]
    assert (tmp_path / "one.sign").stat().st_mode & 0o777 == 0o600


def test_old_signs_of_the_dead_are_swept_away(tmp_path: Path) -> None:
    for name in ("old.sign", "old.sign.new", "young.sign", "other"):
        (tmp_path / name).touch()
        if name != "young.sign":
            os.utime(tmp_path / name, (0, 0))
    sign.forget_old(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"young.sign", "other"}


def test_a_folder_that_others_may_write_into_is_not_trusted(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(PermissionError):
        sign.make_folder(str(tmp_path))
    told: list[str] = []
    thread = SignThread(f"{tmp_path}/{'no' * 200}", "one", said, told.append)
    thread.start()
    give_up = time.monotonic() + 5
    while not told and time.monotonic() < give_up:
        time.sleep(0.01)
    thread.end()
    assert len(told) == 1
    assert "Set crisper_probe_dir" in told[0]


# -- which worker --------------------------------------------------------------


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """`asked("live", …)`: exit code and sentence, of the signs in the folder."""

    def asked(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["crisper-probe", *words, "--dir", str(tmp_path)])
        code = probe.main()
        printed = capsys.readouterr()
        assert len((printed.out + printed.err).splitlines()) == 1
        return code, printed.out + printed.err

    return asked


def test_of_several_workers_it_asks_which(tmp_path: Path, asked: Any) -> None:
    now = sign.now_ms()
    fresh = {"at": now, "turned": now, "ticked": now}
    parent = {"pid": os.getppid(), "pid_start": process_start(os.getppid())}
    sign.write(str(tmp_path), "a", said(worker="a@here", **fresh))
    sign.write(str(tmp_path), "b", said(worker="b@here", **fresh, **parent, consumes=False))
    sign.write(str(tmp_path), "c", said(worker="c@elsewhere", **fresh, pid_namespace="pid:[1]"))
    code, sentence = asked("live")
    assert code == 2
    assert f"a@here (pid {os.getpid()}), b@here (pid {os.getppid()})." in sentence
    assert asked("ready", "--hostname", "a@here")[0] == 0
    assert asked("ready", "--hostname=b@here")[0] == 1
    (tmp_path / "pid").write_text(f"{os.getppid()}\n")
    assert "b@here" in asked("live", "--pidfile", str(tmp_path / "pid"))[1]
    assert asked("live", "--hostname", "c@elsewhere")[0] == 2


def test_the_sign_of_a_process_that_is_gone_is_no_life(tmp_path: Path, asked: Any) -> None:
    now = sign.now_ms()
    assert asked("live")[0] == 1
    sign.write(str(tmp_path), "a", said(at=now, turned=now, ticked=now, pid_start=1))
    code, sentence = asked("live")
    assert (code, "is gone" in sentence) == (1, True)
    sign.write(str(tmp_path), "b", said(at=now, turned=now, ticked=now))
    assert asked("live")[0] == 0


@pytest.mark.parametrize(
    "words", [(), ("alive",), ("live", "ready"), ("live", "--within", "x"), ("live", "--pidfile", "/none")]
)
def test_what_cannot_be_answered_says_what_to_do(asked: Any, words: tuple[str, ...]) -> None:
    code, sentence = asked(*words)
    assert code == 2
    assert sentence.startswith("crisper-probe: ")


# -- what keeps a loop -----------------------------------------------------------


@pytest.mark.parametrize(
    ("modules", "closing", "word"),
    [
        (["mine", "celery.app.trace", "celery.concurrency.solo", "kombu.transport.redis"], False, "task"),
        (["kombu.utils.functional", "kombu.connection", "celery.worker.consumer.consumer"], False, "broker"),
        (["socket", "redis._parsers.socket", "redis.connection", "kombu.transport.redis"], False, "broker"),
        (["selectors", "amqp.transport"], False, "broker"),
        (["billiard.pool", "celery.concurrency.prefork"], True, "shutdown"),
        (["kombu.utils.eventio", "kombu.asynchronous.hub", "celery.worker.loops"], False, ""),
        (["time", "mine", "kombu.transport.redis", "kombu.asynchronous.hub"], False, ""),
        ([], False, ""),
    ],
)
def test_a_loop_is_kept_by_what_its_thread_does(modules: list[str], closing: bool, word: str) -> None:
    assert standing.why(modules, closing=closing) == word


# -- what it costs ---------------------------------------------------------------


def test_asking_imports_nothing_that_takes_time() -> None:
    command = (
        "import sys; was = set(sys.modules); import crisper.faces.probe;"
        " print(*sorted(set(sys.modules) - was))"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        "__future__",
        "crisper",
        "crisper.engine",
        "crisper.engine.sign",
        "crisper.faces",
        "crisper.faces.probe",
    ]
