"""What is old is forgotten."""

from __future__ import annotations

from crisper.store import prune
from crisper.store.base import START, Mark, Old, Pruned
from crisper.store.sql.parts import Parts, verb


class Retention(Parts):
    """The verbs of the pruner."""

    @verb
    def prune_tasks(self, old: Old, after: Mark = START, *, limit: int, only_count: bool = False) -> Pruned:
        with self.db.write():
            return prune.tasks(self, old, after, limit, only_count)

    @verb
    def prune_rest(self, old: Old, *, limit: int) -> int:
        with self.db.write():
            return prune.rest(self, old, limit)
