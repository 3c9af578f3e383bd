"""A batch of records, applied inside one transaction that holds the fence."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from crisper.core.model import Checkpoint, ChildLost, Claim, Finish, Note, Record, Start
from crisper.store.sql.claims import Claims


class Batch(Claims):
    """Records applied inside one transaction that holds the fence."""

    def apply(self, records: Sequence[Record], tried: Collection[int]) -> None:
        """`tried`: claims that were found to be of tasks that are on record."""
        self._claims([r for r in records if isinstance(r, Claim)], tried)
        self._starts([r for r in records if isinstance(r, Start)])
        self._checkpoints([r for r in records if isinstance(r, Checkpoint)])
        self._finishes([r for r in records if isinstance(r, Finish)])
        for record in records:
            if isinstance(record, ChildLost):
                self._child_lost(record)
            elif isinstance(record, Note):
                self._note(record)
