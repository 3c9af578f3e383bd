"""What heartbeats told of attempts, for people: how far one is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, select

from crisper.core.states import OPEN, State
from crisper.engine.answers import of_vitals, plain
from crisper.store.schema import running

#: A claim: its incarnation, and its seq.
Place = tuple[str, int]

#: Of an attempt that is over its worker has told nothing since; of one that was lost with its worker this is
#: the last that was heard.
_TOLD_OF = frozenset({*OPEN, State.LOST})


def vitals(connection: Connection, attempts: Iterable[Any]) -> dict[Place, dict[str, Any]]:
    """Of these rows of attempts, with incarnation, seq and state: what is known of each."""
    wanted = {(row.incarnation, row.seq) for row in attempts if row.state in _TOLD_OF}
    workers = sorted({incarnation for incarnation, _ in wanted if incarnation})
    if not workers:
        return {}
    rows = connection.execute(select(running).where(running.c.incarnation.in_(workers)))
    said = {row.incarnation: (row.at, plain(row.told)) for row in rows}
    known = {}
    for place in wanted:
        at, of_worker = said.get(place[0], (0, {}))
        about = of_worker.get(str(place[1])) if isinstance(of_worker, dict) else None
        if isinstance(about, dict):
            known[place] = of_vitals(about, at)
    return known
