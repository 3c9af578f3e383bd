"""Questions to a broker that may keep us waiting for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


class BrokerSilent(Exception):
    """It cannot be reached, refuses, or did not answer in time. Never raised to people."""


def within(seconds: float, question: Callable[[], T]) -> T:
    """Its answer, or `BrokerSilent`. A thread that waits for ever ends with the process."""
    answers: SimpleQueue[T] = SimpleQueue()
    failures: SimpleQueue[Exception] = SimpleQueue()

    def run() -> None:
        try:
            answers.put(question())
        except Exception as exc:
            failures.put(exc)

    thread = threading.Thread(target=run, name="crisper-asks-broker", daemon=True)
    thread.start()
    thread.join(seconds)
    if not answers.empty():
        return answers.get()
    if failures.empty():
        raise BrokerSilent(f"no answer within {seconds:g} s")
    exc = failures.get()
    raise BrokerSilent(f"{type(exc).__name__}: {str(exc).strip() or 'no reason given'}") from exc
