"""`crisper queues`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from crisper.faces.cli.output import Column, console, emit, json_option, lines, table
from crisper.faces.cli.place import Place
from crisper.faces.cli.text import age, clean, plural

if TYPE_CHECKING:
    from crisper.engine.reading import Reading

_COLUMNS = (
    Column("queue", flexible=3),
    Column("waiting", right=True),
    Column("oldest", right=True),
    Column("consumers", right=True),
    Column("workers", right=True),
    Column("claimed", right=True),
    Column("running", right=True),
)
NOTHING = "No queue is known: no live worker has said what it consumes, and nothing is open."


@click.command()
@json_option
@click.pass_obj
def queues(place: Place, as_json: bool) -> None:
    """How much waits in each queue, since when, and who takes from it.

    What waits and how many consume is asked of the broker, so it needs -A.
    How long the oldest has waited is known on the filesystem broker, and
    elsewhere with crisper_track_publish.

    \b
    Examples:
      crisper -A proj queues
      crisper -A proj queues --json | jq '.queues[] | select(.workers==0)'
    """
    with place.reading() as reading:
        answer = told(place, reading)
    if as_json:
        return emit(answer)
    out = console(place)
    if answer["queues"]:
        table(out, _COLUMNS, map(_row, answer["queues"]))
    else:
        lines(out, NOTHING)
    for sentence in advice(answer):
        lines(out, f"→ {sentence}", style="yellow")
    return None


def told(place: Place, reading: Reading) -> dict[str, Any]:
    """What the registry knows of each queue, and what the broker says if it can be asked."""
    from crisper.engine.queues import queues

    known = {queue["name"]: queue for queue in queues(reading)}
    broker, trouble, waiting = _asked(place, known)
    nothing = dict.fromkeys(("workers", "claimed", "running", "recovering", "unclaimed"), 0)
    listed = []
    for name in sorted({*known, *waiting}):
        queue, there = known.get(name, {"name": name, **nothing}), waiting.get(name)
        oldest = queue.pop("oldest_unclaimed_at", None)
        if there is not None and there.oldest_at is not None:
            oldest = _iso(there.oldest_at)
        listed.append(
            {
                **queue,
                "waiting": None if there is None else there.messages,
                "consumers": None if there is None else there.consumers,
                "oldest_at": oldest,
            }
        )
    return {"broker": broker, "trouble": trouble, "queues": listed}


def _asked(place: Place, names: Iterable[str]) -> tuple[str | None, str | None, dict[str, Any]]:
    """The broker's kind, why it says nothing, and what waits by queue."""
    if place.app is None:
        return None, None, {}
    from crisper.celery.asking import BrokerSilent
    from crisper.celery.depths import depths

    try:
        asked = depths(place.app, place.settings, names)
    except BrokerSilent as exc:
        return None, f"the broker gives no answer ({exc}); what the registry knows is shown", {}
    return asked.broker, None, asked.waiting


def advice(answer: dict[str, Any]) -> list[str]:
    """What is worth a sentence."""
    told = [f"{clean(answer['trouble'], most=500)}"] if answer["trouble"] else []
    for queue in answer["queues"]:
        if queue["consumers"] or queue["workers"]:
            continue
        if waits := queue["waiting"] or queue["unclaimed"]:
            told.append(f"{waits} wait in {clean(queue['name'], most=60)}, {_NOBODY}")
        elif queue["recovering"]:
            told.append(stranded(queue["name"], queue["recovering"]))
    return told


_NOBODY = "and no live worker says that it consumes from there"


def stranded(queue: str, recovering: int) -> str:
    """Of tasks that are brought back to where nobody takes them."""
    return f"{plural(recovering, 'task')} recovering in {clean(queue, most=60)}, {_NOBODY}"


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _row(queue: dict[str, Any]) -> tuple[object, ...]:
    return (
        *(queue["name"], queue["waiting"], age(queue["oldest_at"]), queue["consumers"]),
        *(queue["workers"], queue["claimed"], queue["running"]),
    )
