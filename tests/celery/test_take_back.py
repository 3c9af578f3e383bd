"""What a worker left behind on a lost connection is handed back although it had renewed it."""

from __future__ import annotations

import time
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

from crisper.celery.upkeep import Upkeep


class Scores:
    """The one question that Redis is asked here: is the entry older than that?"""

    def __init__(self, **scores: float) -> None:
        self.scores, self.given = scores, set[str]()

    def keep(self, tags: Collection[str]) -> None:
        self.scores.update(dict.fromkeys(tags, time.time()))

    def take_back(self, tag: str, received_at: float) -> bool:
        if self.scores[tag] <= received_at + 0.5:
            self.given.add(tag)
        return tag in self.given


def test_what_was_renewed_since_its_receipt_is_taken_back_and_what_somebody_has_since_is_not() -> None:
    hour_ago = time.time() - 3600
    broker: Any = Scores(mine=hour_ago, others=hour_ago)
    upkeep = Upkeep(SimpleNamespace(), SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
    upkeep.hold(["mine", "others"])
    upkeep._keep(broker)
    broker.scores["others"] += 60  # restored, and received by another
    upkeep.take_back({"mine": hour_ago, "others": hour_ago})
    upkeep._take_back(broker)
    assert broker.given == {"mine"}
