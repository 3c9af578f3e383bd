"""What waits in the queues is asked of each broker, and one that says nothing holds nobody up."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest
from celery import Celery

from crisper.celery import depths
from crisper.celery.asking import BrokerSilent
from crisper.settings import load
from tests.acceptance.conftest import broker_urls

QUEUE = f"depths-{uuid4().hex[:8]}"


@pytest.fixture(params=["filesystem", "redis", "rabbitmq"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Celery]:
    url = broker_urls(request.param, request).get("broker", "filesystem://")
    with closing(Celery("depths", broker=url, set_as_current=False)) as app:
        app.conf.task_default_queue = QUEUE
        if request.param == "filesystem":
            kinds = ("data_folder_in", "data_folder_out", "control_folder")
            app.conf.broker_transport_options = dict.fromkeys(kinds, str(tmp_path))
        yield app


def test_each_broker_tells_what_waits_and_of_a_queue_that_is_not_there_nothing_waits(app: Celery) -> None:
    for n in range(3):
        app.send_task("shop.pay", args=(n,))
    told = depths.depths(app, load({}), ["no-such-queue"])
    assert told.waiting[QUEUE].messages == 3
    assert told.waiting.get("no-such-queue", depths.Waiting(0)).messages == 0
    assert told.waiting[QUEUE].consumers == (0 if told.broker == "amqp" else None)
    assert (told.waiting[QUEUE].oldest_at is not None) == (told.broker == "filesystem")


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_broker_that_says_nothing_holds_nobody_up(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depths, "ANSWER_SECONDS", 0.5)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        closing(Celery("silent", broker=f"{scheme}://127.0.0.1:{silent.getsockname()[1]}//")) as app,
    ):
        began = time.monotonic()
        with pytest.raises(BrokerSilent):
            depths.depths(app, load({}), [])
        assert time.monotonic() - began < 5
