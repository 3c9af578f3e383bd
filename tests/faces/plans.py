"""How a registry would look a question up."""

from __future__ import annotations

from typing import Any

from sqlalchemy import event

from crisper.engine.filters import Filters, conditions
from crisper.engine.reading import Reading
from crisper.engine.survey import latest_attempts
from crisper.store.schema import attempt


def plan_of(reading: Reading, asked: Filters) -> str:
    """Of the newest tasks that the filters select."""
    with reading.snapshot() as connection:
        if reading.dialect == "postgresql":
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        before = {"sqlite": "EXPLAIN QUERY PLAN "}.get(reading.dialect, "EXPLAIN ")
        wanted = conditions(asked, reading.now(connection), reading.dialect)
        at = attempt.c.received_at
        age = at + 0 if asked.tell_of_few else at
        question = latest_attempts().where(*wanted).order_by(age.desc()).limit(50)

        def explained(_c: Any, _u: Any, statement: str, parameters: Any, _x: Any, _m: Any) -> Any:
            return before + statement, parameters

        event.listen(connection, "before_cursor_execute", explained, retval=True)
        try:
            return "\n".join(str(row) for row in connection.execute(question))
        finally:
            event.remove(connection, "before_cursor_execute", explained)
