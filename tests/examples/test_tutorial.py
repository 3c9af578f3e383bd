"""The tutorial is true: its own blocks, run in their order, show what the page shows."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.examples.page import Command, Reader, blocks, commands
from tests.examples.shop import EXAMPLES, own_environment
from tests.fleet import ROOT
from tests.servers import PrivateRedis, free_port

PAGE = ROOT / "docs" / "tutorial.md"
INSTALL = "pip install 'celery-crisper[redis,serve]'"


@pytest.fixture
def reader(tmp_path: Path, own_redis: PrivateRedis) -> Iterator[Reader]:
    """With Crisper installed, and a Redis that is not everybody's."""
    environment = own_environment(tmp_path, own_redis.url)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    with closing(Reader(tmp_path, environment)) as reader:
        yield reader


@pytest.mark.timeout(120)
def test_a_reader_of_the_tutorial_sees_a_killed_worker_s_task_recovered(reader: Reader) -> None:
    steps = list(commands(PAGE))
    assert steps.pop(0) == Command(INSTALL, [])
    (reader.folder / "shop.py").write_text(blocks(PAGE, "python")[0])
    *on_terminals, serve = steps
    for step in on_terminals:
        reader.follow(step)
    said = reader.follow(serve._replace(line=f"{serve.line} --port {free_port()}"))
    sees_the_dashboard(said.split()[-1], *reader.ids.values())


def sees_the_dashboard(link: str, task: str) -> None:
    here = httpx.URL(link).copy_with(path="/", query=None)
    with httpx.Client(base_url=here, follow_redirects=True) as browser:
        assert "was lost" in browser.get(link).text
        assert f"/task?id={task}" in browser.get("/tasks").text
        story = browser.get("/task", params={"id": task}).text
        assert "hand back, because the broker holds its message for the dead worker" in story


def test_the_tutorial_s_app_is_the_plain_example() -> None:
    assert blocks(PAGE, "python") == [(EXAMPLES / "plain" / "shop.py").read_text()]
