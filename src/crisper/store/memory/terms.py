"""Leadership, and the registry's own clock."""

from __future__ import annotations

from dataclasses import replace

from crisper.core.states import UNDER_WAY
from crisper.store.base import Term
from crisper.store.memory.tables import Tables


class Terms(Tables):
    """The verbs of the sweepers among each other."""

    def term(self, name: str) -> Term | None:
        with self._lock:
            return self._terms.get(name)

    def campaign(self, name: str, holder: str, seen: Term | None) -> Term | None:
        with self._lock:
            if self._terms.get(name) != seen:
                return None
            self._terms[name] = Term(holder, seen.counter + 1 if seen else 1)
            return self._terms[name]

    def clock(self) -> tuple[int, int]:
        with self._lock:
            return self._clock(), self._mended

    def mend_clock(self, mended: int, step_ms: int) -> bool:
        with self._lock:
            if mended != self._mended:
                return False
            self._mended += 1
            for place, one in self._recoveries.items():
                if one.state in UNDER_WAY:
                    due_at = None if one.due_at is None else one.due_at + step_ms
                    created_at = one.created_at + step_ms
                    self._recoveries[place] = replace(one, created_at=created_at, due_at=due_at)
            self._published = {id: (one, due + step_ms) for id, (one, due) in self._published.items()}
            self._event(self._clock(), "clock_mended", actor="sweeper", data={"step_ms": step_ms})
            return True
