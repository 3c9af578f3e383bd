"""What became of the ids that a person decided about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from crisper.errors import CrisperError, Refused
from crisper.faces.cli.output import console, emit, lines
from crisper.faces.cli.place import Place
from crisper.faces.cli.text import clean

if TYPE_CHECKING:
    from crisper.engine.control import Done


def report(
    place: Place, verb: str, done: list[Done], *, dry_run: bool, as_json: bool, left: int | None = None
) -> None:
    if as_json:
        emit({"tasks": [_answer(one, dry_run) for one in done]} | ({} if left is None else {"left": left}))
    else:
        out = console(place)
        for one in done:
            if one.outcome == "done":
                lines(out, f"{clean(one.task_id)}: {_would(verb) if dry_run else one.reason}")
        if left is not None and not done:
            lines(out, "Nothing was done." if left else f"There is nothing to {verb}.")
    for one in done:
        if one.outcome != "done":
            click.echo(f"crisper: {clean(one.task_id, most=60)}: {clean(one.reason, most=500)}", err=True)


def _would(verb: str) -> str:
    does = {"recover": "sent again", "discard": "closed for good", "stop": "stopped"}
    return f"would be {does[verb]}"


def _answer(one: Done, dry_run: bool) -> dict[str, Any]:
    outcome = "possible" if dry_run and one.outcome == "done" else str(one.outcome)
    return {"task_id": one.task_id, "outcome": outcome, "reason": one.reason or None, "attempt": one.attempt}


def exit_code(done: list[Done]) -> int:
    """Refusals alone are 75; anything that was not found or not possible is 1."""
    outcomes = {str(one.outcome) for one in done} - {"done"}
    if not outcomes:
        return 0
    if outcomes == {"unreachable"}:
        return 69
    return Refused.exit_code if outcomes == {"refused"} else CrisperError.exit_code
