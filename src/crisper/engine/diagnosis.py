"""What ails a worker that lives, or an attempt that runs: named, with its evidence, for people."""

from __future__ import annotations

from typing import Any, NamedTuple

WEDGED, SILENT, STALLED = "wedged", "silent", "stalled"
#: The event that ends one of them by itself.
WENT_ON = "went_on"


class Diagnosis(NamedTuple):
    """One of the three, while it lasts."""

    kind: str
    sentence: str
    since_ms: int  # by the host's monotonic clock
    evidence: dict[str, Any]
    task_id: str | None = None
    number: int | None = None

    def told(self, now_ms: int) -> dict[str, Any]:
        """As a heartbeat carries it; the evidence is in its event."""
        plain = {"kind": self.kind, "sentence": self.sentence, "seconds": (now_ms - self.since_ms) // 1000}
        if self.task_id is not None:
            plain |= {"task_id": self.task_id, "attempt": self.number}
        return plain
