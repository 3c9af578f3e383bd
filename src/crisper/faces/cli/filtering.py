"""Filters of tasks: the same for who looks, and for who decides about many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from crisper.engine.filters import Filters

_OPTIONS = (
    click.option("--name", metavar="GLOB", help="The task's name; * and ? stand for anything."),
    click.option("--worker", metavar="HOSTNAME",
                 help="Where its latest attempt is or was; an incarnation's id does too."),
    click.option("--queue", metavar="QUEUE", help="The queue its message came from."),
    click.option("--id", "id", metavar="TASK_ID",
                 help="Its id, or 6 characters or more that it begins with."),
    click.option("--argument", metavar="TEXT",
                 help="A text in its arguments as they are on record: redacted and shortened."),
    click.option("--lost-by", metavar="LIFE",
                 help="One life of a worker, by its id, lost an attempt of it, whatever came after."),
    click.option("--since", metavar="TIME",
                 help="Received then or later: 2h (ago), 2025-03-09T03:12 (UTC)."),
    click.option("--until", metavar="TIME", help="Received before then."),
    click.option("--older-than", metavar="AGE", help="Received so long ago or longer: 90s, 10m, 2h, 1d12h."),
)  # fmt: skip


def filter_options(command: Any) -> Any:
    """All but the state: who decides about many may name some of them only."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def filters_of(
    *, states: tuple[str, ...], older_than: str | None, since: str | None, until: str | None, **others: Any
) -> Filters:
    """Of the options' words. Raises `BadQuestion`."""
    from crisper.engine.filters import Filters
    from crisper.engine.moments import age_ms, moment

    return Filters(
        states,
        older_than_ms=None if older_than is None else age_ms(older_than),
        since=None if since is None else moment(since),
        until=None if until is None else moment(until),
        **others,
    )
