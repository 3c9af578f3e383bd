"""A registry, somebody who is told, and as many processes that look as a test wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from crisper.faces.alerts.channels import channels
from crisper.faces.cli.place import Place
from crisper.faces.serve.alerting import Alerting
from crisper.faces.serve.registry import Registry
from crisper.store.open import open_store
from crisper.store.sql import SqlStore
from tests.alerts.receiver import SECRET, Receiver, receiving
from tests.faces.conftest import run  # noqa: F401


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """The settings name it, in the environment."""
    with receiving() as receiver:
        monkeypatch.setenv("CRISPER_ALERTS_WEBHOOK", receiver.url)
        monkeypatch.setenv("CRISPER_ALERTS_SECRET", SECRET)
        monkeypatch.setenv("CRISPER_ALERTS_PRIVATE", "true")
        yield receiver


@pytest.fixture
def store(empty_url: str) -> Iterator[SqlStore]:
    with closing(open_store(empty_url)) as store:
        store.test_url = empty_url  # type: ignore[attr-defined]
        yield store


Looks = Callable[..., Alerting]


@pytest.fixture
def looks(receiver: Receiver) -> Iterator[Looks]:
    """`looks(url)`: another process that would tell, and what it says on its terminal."""
    with ExitStack() as exit:

        def looks(url: str, said: list[str] | None = None, **pace: Any) -> Alerting:
            registry = exit.enter_context(closing(Registry(Place(None, None, url, True))))
            to = channels(registry.place.settings)
            return Alerting(registry, to, say=(said if said is not None else []).append, **pace)

        yield looks
