"""What the worker's couriers ask of the registry, over the wire: every question is answered, and soon."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable
from typing import Any

from crisper.errors import CrisperError
from crisper.recorder import wire

Item = tuple[Any, ...]  # `(ask, reference, verb, arguments)`

OVER = "RegistryUnreachable: this worker gets another lease first"


class Asks:
    """`perform` does what a verb says. Filled by the main thread, answered by the pulse thread."""

    def __init__(
        self, perform: Callable[[str, dict[str, Any]], Any], tell: Callable[[tuple[Any, ...]], None]
    ) -> None:
        self._perform, self._tell = perform, tell
        self._items: queue.SimpleQueue[Item | None] = queue.SimpleQueue()

    def put(self, item: Item) -> None:
        self._items.put(item)

    def nudge(self) -> None:
        """Whoever waits for a question looks up."""
        self._items.put(None)

    def answer_one(self, seconds: float) -> None:
        """The next that comes within that time. An error that is not Crisper's is an answer, and raised."""
        with contextlib.suppress(queue.Empty):
            item = self._items.get(timeout=seconds)
            if item is not None:
                self._answer(item)

    def refuse(self) -> None:
        """Those that nobody will answer: whoever asked asks again."""
        with contextlib.suppress(queue.Empty):
            while True:
                item = self._items.get_nowait()
                if item is not None:
                    self._tell((wire.TOLD, item[1], False, OVER))

    def _answer(self, item: Item) -> None:
        _, reference, verb, arguments = item
        try:
            result = self._perform(verb, arguments)
        except Exception as exc:
            self._tell((wire.TOLD, reference, False, f"{type(exc).__name__}: {exc}"))
            if not isinstance(exc, CrisperError):
                raise
        else:
            self._tell((wire.TOLD, reference, True, result))
