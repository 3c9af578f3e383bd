"""Following the audit trail: every event once, also those that were committed after later ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from crisper.engine.filters import LIMIT_MOST, cursor_of
from crisper.engine.survey import Survey

#: Seconds after which no event of a lower id can appear any more: a transaction of ours lasts at most 10.
SETTLES_SECONDS = 15.0

Events = list[dict[str, Any]]


class Following:
    """The events of one question, as they come. Monotonic clocks are told, none is read."""

    def __init__(
        self,
        survey: Survey,
        *,
        task_id: str | None = None,
        kinds: Iterable[str] = (),
        by: str | None = None,
    ) -> None:
        self._survey = survey
        self._asked: dict[str, Any] = {"task_id": task_id, "kinds": tuple(kinds), "by": by}
        self._seen: dict[int, float] = {}  # by id, when it was first seen
        self._settled: str | None = None  # up to here nothing new can come

    def begin(self, now: float, *, limit: int, since_ms: int | None) -> Events:
        """The newest events that are there already, the oldest first."""
        tail = self._survey.newest_events(**self._asked, limit=LIMIT_MOST)
        shown: Events = self._survey.newest_events(**self._asked, limit=limit, since_ms=since_ms)["events"]
        if tail["more"]:
            self._settled = cursor_of(tail["events"][0]["id"] - 1)
        self._seen |= {one["id"]: now for one in (*tail["events"], *shown)}
        return shown

    def tick(self, now: float) -> Iterator[Events]:
        """Pages of what has come since. Raises as `Survey` does; the next tick goes on from there."""
        after, full = self._settled, True
        while full:
            page = self._survey.events(**self._asked, after=after, limit=LIMIT_MOST)
            fresh = [one for one in page["events"] if one["id"] not in self._seen]
            self._seen |= {one["id"]: now for one in fresh}
            if fresh:
                yield fresh
            after, full = page["next"], len(page["events"]) == LIMIT_MOST
        self._settle(now)

    def _settle(self, now: float) -> None:
        young = min((id for id, at in self._seen.items() if now - at < SETTLES_SECONDS), default=None)
        old = [id for id in self._seen if young is None or id < young]
        if old:
            self._settled = cursor_of(max(old))
            for id in old:
                del self._seen[id]
