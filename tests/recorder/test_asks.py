"""A courier that asks is answered: it would wait for half a minute else, and its cases with it."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from crisper.celery.desk import WireDesk
from crisper.celery.link import Link
from crisper.errors import RegistryUnreachable
from crisper.recorder import wire
from crisper.recorder.asks import OVER, Asks
from crisper.recorder.process import Recorder
from tests.fleet import wait_for


def ask(reference: int, verb: str) -> tuple[Any, ...]:
    return wire.ASK, reference, verb, {}


def test_what_was_asked_of_a_pulse_that_ends_is_refused() -> None:
    told: list[tuple[Any, ...]] = []
    asks = Asks(lambda verb, arguments: "done", told.append)
    asks.put(ask(1, "decide"))
    asks.nudge()
    asks.put(ask(2, "complete"))
    asks.refuse()
    assert told == [(wire.TOLD, 1, False, OVER), (wire.TOLD, 2, False, OVER)]
    asks.answer_one(0.01)
    assert len(told) == 2


def test_trouble_of_our_own_is_an_answer_too() -> None:
    told: list[tuple[Any, ...]] = []

    def perform(verb: str, arguments: dict[str, Any]) -> Any:
        raise KeyError(verb) if verb == "decide" else RegistryUnreachable("it is away")

    asks = Asks(perform, told.append)
    asks.put(ask(1, "decide"))
    with pytest.raises(KeyError):
        asks.answer_one(0.01)
    asks.put(ask(2, "ready"))
    asks.answer_one(0.01)
    assert told == [
        (wire.TOLD, 1, False, "KeyError: 'decide'"),
        (wire.TOLD, 2, False, "RegistryUnreachable: it is away"),
    ]


def test_what_is_asked_while_a_worker_has_no_lease_is_not_kept_for_the_next_one() -> None:
    asked: list[tuple[Any, ...]] = []
    between = SimpleNamespace(_recording=None, _early=[], _ask=asked.append)
    Recorder._take(cast("Recorder", between), ask(1, "decide"))
    assert (len(asked), between._early) == (1, [])


def test_what_a_dead_recorder_was_asked_is_refused_when_another_takes_its_place() -> None:
    desk = WireDesk(Link("node", dict))
    refused: list[str] = []

    def courier() -> None:
        try:
            desk.ask("nodes")
        except RegistryUnreachable as exc:
            refused.append(str(exc))

    thread = threading.Thread(target=courier)
    thread.start()
    wait_for("it has asked", lambda: desk._answers)
    desk.forget()
    thread.join(5)
    assert refused == ["another recorder has taken the place of the one that was asked"]
