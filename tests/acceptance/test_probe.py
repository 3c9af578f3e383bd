"""A real worker's life, as `crisper-probe` sees it: neither broker nor registry decides it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from crisper.engine import sign
from crisper.faces import probe
from crisper.store import migrate
from tests.fleet import Fleet, wait_for
from tests.servers import PrivatePostgres, PrivateRedis

QUICK = {"lease": 1.2, "heartbeat_interval": 0.2, "sweep_interval": 0.3}
Says = Callable[..., str]


@pytest.fixture
def signs(tmp_path: Path) -> Path:
    return tmp_path / "signs"


@pytest.fixture
def says(signs: Path) -> Iterator[Says]:
    """`says("ready", True, "words")`: the answer that is awaited."""

    def says(question: str, yes: bool, words: str = "", within: str = "60") -> str:
        def said() -> str:
            answer, sentence = probe.answer(question, {"--dir": str(signs), "--within": within})
            return sentence if answer is yes and words in sentence else ""

        return wait_for(f"{question} says {yes} {words}", said)

    return says


def test_a_worker_is_ready_then_stopped_then_gone(tmp_path: Path, signs: Path, says: Says) -> None:
    with closing(Fleet(tmp_path, probe_dir=str(signs), **QUICK)) as fleet:
        says("live", False, "no worker")
        worker = fleet.worker("first")
        says("ready", True, "first@test is ready, on record in the registry")
        command = [str(Path(sys.executable).with_name("crisper-probe")), "live"]
        done = subprocess.run(command, env=fleet.environment, capture_output=True, text=True, check=True)
        assert done.stdout == "first@test lives\n"
        worker.send_signal(signal.SIGSTOP)
        says("live", False, "has not gone round", within="1")
        worker.send_signal(signal.SIGCONT)
        says("live", True)
        assert worker.stop() == 0
        wait_for("its sign to be taken away", lambda: not list(signs.iterdir()))
        assert not fleet.errors()


def test_a_killed_worker_is_gone_at_once(tmp_path: Path, signs: Path, says: Says) -> None:
    """Its control: one whose recorder is killed lives on, with another."""
    with closing(Fleet(tmp_path, probe_dir=str(signs), **QUICK)) as fleet:
        worker = fleet.worker("first")
        says("ready", True)
        recorder = worker.recorder()
        os.kill(recorder, signal.SIGKILL)
        wait_for("another recorder", lambda: worker.recorders() not in ([], [recorder]))
        since = sign.now_ms()
        wait_for("its own sign", lambda: [one for one in sign.read(str(signs)) if one.at > since])
        says("ready", True)
        worker.kill()
        says("live", False)
        wait_for("its sign to be taken away", lambda: not list(signs.iterdir()))


@pytest.mark.slow
def test_a_worker_lives_whatever_becomes_of_its_broker_and_registry(
    tmp_path: Path, signs: Path, says: Says, own_redis: PrivateRedis, own_postgres: PrivatePostgres
) -> None:
    """And is ready only while it can take messages and write them down."""
    migrate.upgrade(own_postgres.url)
    servers = {"broker": own_redis.url, "registry": own_postgres.url}
    with closing(Fleet(tmp_path, probe_dir=str(signs), **servers, **QUICK)) as fleet:
        fleet.worker("first")
        says("ready", True, "in the registry")
        own_postgres.crash()
        says("ready", True, "in the journal")
        own_postgres.start()
        says("ready", True, "in the registry")
        own_redis.crash()
        says("ready", False)
        says("live", True, "because it waits for the broker")
        own_redis.start()
        says("ready", True)
        assert not fleet.errors()


@pytest.mark.slow
def test_a_long_task_in_the_solo_pool_is_no_reason_to_restart(
    tmp_path: Path, signs: Path, says: Says, redis_url: str
) -> None:
    with closing(Fleet(tmp_path, broker=redis_url, probe_dir=str(signs), **QUICK)) as fleet:
        fleet.worker("alone", "-P", "solo", "-Q", "alone")
        says("ready", True)
        fleet.send("late", "long", 6.0, queue="alone")
        says("live", True, "because a task runs in its loop's own thread", within="1")
        says("ready", True, within="1")
