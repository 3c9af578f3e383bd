"""`--all`: what the filters select is decided about like ids that were written out, in batches."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from crisper.faces.cli.filtering import filter_options
from crisper.faces.cli.place import Place
from crisper.faces.cli.text import clean, plural

if TYPE_CHECKING:
    from crisper.engine import selection
    from crisper.engine.control import Done
    from crisper.engine.filters import Filters
    from crisper.engine.selection import Selected, Selection

T = TypeVar("T")

#: Decided and carried out together. The first goes alone: if the broker is down, one is enough to know.
BATCH = 25

#: Kinds of task that the question names.
_NAMED = 5


class Scope(NamedTuple):
    """What `--all` of one verb may select."""

    states: tuple[str, ...]  # where nothing else is asked for
    others: tuple[str, ...] = ()
    widest: bool = True  # without any filter


SCOPES = {
    "recover": Scope(("quarantined", "held"), ("failed", "discarded", "revoked")),
    "discard": Scope(("quarantined", "held")),
    "stop": Scope(
        ("claimed", "running", "recovering"),
        ("released", "rejected", "retried", "quarantined", "held"),
        widest=False,
    ),
}


class Asked(NamedTuple):
    everything: bool
    filters: Filters
    most: int

    @property
    def narrowed(self) -> bool:
        return any(getattr(self.filters, one.name) not in (None, (), "") for one in fields(self.filters))


def bulk_options(verb: str) -> Callable[[Any], Any]:
    states, others, _ = SCOPES[verb]
    of_state = f"Of this state: {', '.join((*states, *others))}. By default {', '.join(states)}. Repeatable."

    def add(command: Any) -> Any:
        for option in (
            click.option("--max", "most", type=click.IntRange(1, 10_000), default=100, show_default=True,
                         metavar="N", help="Never more than so many, the oldest first."),
            filter_options,
            click.option("--state", "states", multiple=True, type=click.Choice((*states, *others)),
                         metavar="STATE", help=of_state),
            click.option("--all", "everything", is_flag=True, help=f"{verb.capitalize()} all that match."),
        ):  # fmt: skip
            command = option(command)
        return command

    return add


def check(verb: str, ids: tuple[str, ...], asked: Asked) -> None:
    """Raises `UsageError` unless it is clear what is meant."""
    if asked.everything and ids:
        raise click.UsageError("name tasks by their ids, or say --all with filters, not both")
    if not asked.everything and not ids:
        raise click.UsageError(f"{verb} what? Name tasks by their ids, or say --all with filters")
    if not asked.everything and asked.narrowed:
        raise click.UsageError("--state, --name and other filters choose from all tasks: add --all")
    if asked.everything and not SCOPES[verb].widest and not asked.narrowed:
        raise click.UsageError(
            f"{verb} every task there is? Narrow it by a filter, such as --name or --queue, or say --name '*'"
        )


def wanted_states(verb: str, asked: Asked) -> tuple[str, ...]:
    return asked.filters.states or SCOPES[verb].states


def question(verb: str, asked: Asked) -> selection.Asked:
    from crisper.engine import selection

    filters = replace(asked.filters, states=wanted_states(verb, asked))
    return selection.Asked(filters, asked.most, kept=verb == "recover", unordered=verb == "stop")


def select(place: Place, verb: str, asked: Asked) -> Selection:
    from crisper.engine import selection

    with place.reading() as reading:
        return selection.selection(reading, question(verb, asked))


def warnings(verb: str, chosen: Selection, *, more: str = "--max takes more at once") -> Iterator[str]:
    """What to know before it is done, and what is left for later."""
    if verb == "recover":
        begun = sum(task.begun for task in chosen.tasks)
        early = sum(task.may_have_begun for task in chosen.tasks)
        again = "what a body has done already, it does again"
        if begun:
            yield f"{plural(begun, 'task')} had begun: {again}"
        if early:
            yield f"{plural(early, 'task')} acknowledged early may have begun: {again}"
    if running := sum(verb == "stop" and task.state == "running" for task in chosen.tasks):
        yield f"{plural(running, 'task')} running: what a body has done already is not undone"
    if chosen.unkept:
        yield f"{plural(chosen.unkept, 'task')} left out: the message is not kept, so it cannot be sent again"
    if left := chosen.matching - len(chosen.tasks):
        least = "" if chosen.counted_all else "at least "
        yield f"{least}{left} more match, and stay as they are; {more}"


def summary(tasks: list[Selected]) -> Iterator[str]:
    """So many of this name and state, the most first."""
    kinds = Counter((task.name, task.state) for task in tasks)
    for (name, state), count in kinds.most_common(_NAMED):
        yield f"{count:>6} {clean(name, most=50)}, {state}"
    if len(kinds) > _NAMED:
        rest = sum(count for _, count in kinds.most_common()[_NAMED:])
        yield f"{rest:>6} others"


def in_batches(act: Callable[[list[str]], list[Done]], ids: list[str], done: list[Done]) -> None:
    """Act on all, adding to `done` what is, so that it is known whatever ends this. Stops where the broker
    takes nothing: the rest stays as it is."""
    with click.progressbar(length=len(ids), label="tasks", file=sys.stderr,
                           hidden=not sys.stderr.isatty()) as bar:  # fmt: skip
        for answers in acted(act, ids):
            done += answers
            bar.update(len(answers))


def acted(act: Callable[[list[T]], list[Done]], those: list[T]) -> Iterator[list[Done]]:
    """What became of each batch, until the broker takes nothing."""
    for batch in (those[:1], *(those[at : at + BATCH] for at in range(1, len(those), BATCH))):
        answers = act(batch) if batch else []
        yield answers
        if answers and all(one.outcome == "unreachable" for one in answers):
            return
