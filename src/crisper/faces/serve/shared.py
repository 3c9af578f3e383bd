"""Answers that many pages show: asked for once, however many ask at the same moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

#: Answers that are kept; beyond them the oldest goes.
MOST = 200


@dataclass
class _Answer:
    lock: threading.Lock = field(default_factory=threading.Lock)
    until: float = 0.0
    value: Any = None


class Shared:
    """From any thread. Who comes while somebody asks waits for that answer. An error is not kept."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._answers: dict[Hashable, _Answer] = {}

    def ask(self, key: Hashable, question: Callable[[], T], *, seconds: float) -> T:
        """The question's answer, at most `seconds` old."""
        with self._lock:
            answer = self._answers.pop(key, None) or _Answer()
            self._answers[key] = answer
            if len(self._answers) > MOST:
                del self._answers[next(iter(self._answers))]
        with answer.lock:
            if self._clock() >= answer.until:
                answer.value = question()
                answer.until = self._clock() + seconds
            value: T = answer.value
            return value

    def forget(self) -> None:
        """Something was decided: what is asked from now on is asked anew."""
        with self._lock:
            self._answers.clear()
