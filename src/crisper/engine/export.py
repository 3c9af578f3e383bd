"""The registry's tables on their way out, row by row: pages of one snapshot each, whatever their length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import Boolean, ColumnElement, Integer, Select, Table, select, tuple_

from crisper.engine.answers import iso, plain
from crisper.engine.reading import Reading
from crisper.engine.survey import HOSTNAME
from crisper.store.schema import attempt, event, incarnation, recovery

#: Rows read in one snapshot.
PAGE = 1000

#: The message itself: it is for the broker alone.
_LEFT_OUT = ("envelope", "body")
_JSON = ("args_preview", "kwargs_preview", "evidence", "about", "pulse", "data")


class Kind(StrEnum):
    """What a column holds."""

    TEXT = "text"
    NUMBER = "number"
    FLAG = "flag"
    TIME = "time"  # milliseconds since the epoch
    JSON = "json"


class Exportable(NamedTuple):
    """One table: what is read of it, in which order, and when each row happened."""

    question: Select[Any]
    order: tuple[ColumnElement[Any], ...]  # unique, and by an index
    at: ColumnElement[int]
    kinds: dict[str, Kind]


def _exportable(table: Table, order: Sequence[str], at: str, *more: ColumnElement[str]) -> Exportable:
    columns = [column for column in table.columns if column.name not in _LEFT_OUT]
    kinds = {column.name: _kind(column) for column in columns} | {one.name: Kind.TEXT for one in more}
    question = select(*columns, *more)
    if more:
        question = question.join(incarnation, incarnation.c.id == table.c.incarnation, isouter=True)
    return Exportable(question, tuple(table.c[name] for name in order), table.c[at], kinds)


def _kind(column: Any) -> Kind:
    if column.name == "at" or column.name.endswith("_at"):
        return Kind.TIME
    if column.name in _JSON:
        return Kind.JSON
    if isinstance(column.type, Boolean):
        return Kind.FLAG
    return Kind.NUMBER if isinstance(column.type, Integer) else Kind.TEXT


#: By the name that people ask for it by.
EXPORTABLE = {
    "attempts": _exportable(attempt, ("received_at", "task_id", "number"), "received_at", HOSTNAME),
    "recoveries": _exportable(recovery, ("task_id", "number"), "created_at"),
    "events": _exportable(event, ("at", "id"), "at"),
    "workers": _exportable(incarnation, ("id",), "started_at"),
}


def rows(
    reading: Reading, what: str, *, since_ms: int | None = None, until_ms: int | None = None
) -> Iterator[list[dict[str, Any]]]:
    """Pages of rows as the registry has them, the younger than `since_ms` and older than `until_ms`.

    What changes while it is read may be there as it was or as it is. Raises as `Reading.snapshot` does.
    """
    asked = EXPORTABLE[what]
    order, at = asked.order, asked.at
    with reading.snapshot() as connection:
        now = reading.now(connection)
    question = asked.question.order_by(*order).limit(PAGE)
    if since_ms is not None:
        question = question.where(at >= now - since_ms)
    if until_ms is not None:
        question = question.where(at < now - until_ms)
    names = [column.name for column in order]
    mark: list[Any] | None = None
    while True:
        behind = question if mark is None else question.where(order[0] >= mark[0], tuple_(*order) > mark)
        with reading.snapshot() as connection:
            page = [dict(row) for row in connection.execute(behind).mappings()]
        if page:
            yield page
        if len(page) < PAGE:
            return
        mark = [page[-1][name] for name in names]


def as_json(row: dict[str, Any], kinds: dict[str, Kind]) -> dict[str, Any]:
    """A row as our JSON has it: times in ISO 8601, stored JSON as what it is."""
    return {name: _plain(kinds[name], value) for name, value in row.items()}


def _plain(kind: Kind, value: Any) -> Any:
    if kind is Kind.TIME:
        return iso(value)
    return plain(value) if kind is Kind.JSON else value
