"""Messages on record from when they are published until they are claimed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crisper.core.model import Look, Published
from crisper.core.text import key
from crisper.store import publishes
from crisper.store.sql.parts import Parts, verb


class Publishes(Parts):
    """The verbs of publishers, and of those who look for what vanished."""

    @verb
    def publish(self, messages: Sequence[Published], *, due_in_ms: int) -> None:
        with self.db.write():
            publishes.insert(self, messages, due_in_ms)

    @verb
    def retract(self, message_id: str) -> None:
        with self.db.write():
            self.db.run("DELETE FROM crisper_publish WHERE message_id = ?", key(message_id))

    @verb
    def take_unclaimed(self, scope: str, *, limit: int) -> list[Published]:
        with self.db.write():
            return publishes.take(self, scope, limit)

    @verb
    def look_again(self, looks: Sequence[Look]) -> None:
        with self.db.write():
            publishes.look_again(self, looks)

    @verb
    def declare_vanished(
        self, messages: Sequence[tuple[str, int]], *, by: str, evidence: dict[str, Any], due_in_ms: int
    ) -> list[str]:
        with self.db.write():
            return publishes.declare(self, messages, by, evidence, due_in_ms)
