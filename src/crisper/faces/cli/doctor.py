"""`crisper doctor`."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from crisper.errors import (
    RegistryError,
    RegistryUnreachable,
    SchemaMissing,
    SchemaOutdated,
    SchemaTooNew,
    SettingsError,
)
from crisper.faces.cli.output import console, emit, hanging, json_option, lines
from crisper.faces.cli.place import Place
from crisper.faces.cli.text import clean, plural

if TYPE_CHECKING:
    from rich.console import Console

    from crisper.engine.doctor.facts import Broker, Facts, Host, Registry, ToBe, Trouble
    from crisper.engine.doctor.finding import Finding
    from crisper.settings import Settings

HEALTHY = "healthy"
_STYLES = {"error": "red", "warning": "yellow"}
_MOST = 1000


@click.command()
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    envvar="TERMINATION_GRACE_PERIOD_SECONDS",
    show_envvar=True,
    help="How long a worker has from SIGTERM to SIGKILL.",
)
@json_option
@click.pass_context
def doctor(ctx: click.Context, grace: float | None, as_json: bool) -> None:
    """Every hazard in the app's settings, tasks, broker and registry.

    Each with why, how bad it is, and the line that cures it. It changes
    nothing, asks every server under a deadline, and says nothing without
    evidence: where there is no history of a task, its time limit counts.

    Exit code 1 if there is an error or a warning, 0 if there is none.

    \b
    Examples:
      crisper -A proj doctor
      crisper -A proj doctor --grace 300
      crisper -A proj doctor --json | jq '.findings[] | select(.level=="error")'
    """
    from crisper.engine.doctor.catalogue import examine
    from crisper.engine.doctor.finding import Level

    place: Place = ctx.obj
    facts = _facts(place, grace)
    findings = examine(facts)
    hazards = [finding for finding in findings if finding.level is not Level.OK]
    if as_json:
        emit({"findings": [finding._asdict() for finding in findings]})
    else:
        show(console(place), hazards)
        if facts.to_be is not None and facts.to_be.writable:
            path = clean(facts.to_be.path, most=_MOST)
            lines(console(place), f"The registry is not made yet: the first worker makes {path}.")
    if hazards:
        ctx.exit(1)


# -- facts -------------------------------------------------------------------


def _facts(place: Place, grace: float | None) -> Facts:
    """Any of them may be out of reach. The registry is asked after the broker: a worker that has answered
    there is on record by then, or was a moment ago."""
    from crisper.celery.doctor.app import ask
    from crisper.engine.doctor.facts import Facts

    if place.app is None:
        raise SettingsError("which app? doctor reads its settings and tasks: name it with -A before doctor")
    _load(place.app)
    settings = place.settings
    app = ask(place.app, settings)
    host, of_host = _host(settings, grace)
    broker, of_broker = _broker(place)
    to_be = _to_be(settings)
    registry, of_registry = (None, []) if to_be else _registry(place)
    return Facts(settings, app, host, broker, registry, (*of_broker, *of_registry, *of_host), to_be)


def _load(app: Any) -> None:
    """An app's modules may print; stdout is kept for what we have to say."""
    from crisper.celery.doctor.app import load

    try:
        with contextlib.redirect_stdout(sys.stderr):
            load(app)
    except (Exception, SystemExit) as exc:
        raise SettingsError(f"the app's tasks cannot be loaded: {type(exc).__name__}: {exc}") from exc


def _host(settings: Settings, grace: float | None) -> tuple[Host, list[Trouble]]:
    from crisper.engine.doctor.facts import Host, Trouble
    from crisper.engine.doctor.host import ask

    try:
        return ask(settings, grace), []
    except OSError as exc:
        fix = "set crisper_journal_dir to a folder that this user may look into"
        return Host(grace=grace), [Trouble("host", str(exc), fix)]


def _to_be(settings: Settings) -> ToBe | None:
    """A SQLite registry that no worker has made yet."""
    from crisper.engine.doctor.host import to_be
    from crisper.store import migrate
    from crisper.store.open import is_sqlite

    if not is_sqlite(settings.registry_url):
        return None
    try:
        migrate.check(settings.registry_url)
    except SchemaMissing:
        with contextlib.suppress(OSError):
            return to_be(settings.registry_url)
    except RegistryError:
        pass  # `_registry` says what is wrong with it
    return None


def _registry(place: Place) -> tuple[Registry | None, list[Trouble]]:
    from crisper.engine.doctor.facts import Trouble
    from crisper.engine.doctor.registry import ask

    try:
        return ask(place.settings.registry_url), []
    except SettingsError:
        raise
    except (SchemaMissing, SchemaOutdated) as exc:
        return None, [Trouble("schema", str(exc), f"{place.typed} migrate")]
    except SchemaTooNew as exc:
        return None, [Trouble("schema", str(exc), "pip install --upgrade celery-crisper")]
    except RegistryUnreachable as exc:
        fix = 'start its server, or app.conf.crisper_registry_url = "…"'
        return None, [Trouble("registry", str(exc), fix)]
    except RegistryError:
        why = "its server is there, and did not answer the questions in time."
        return None, [Trouble("registry", why, f"{place.typed} doctor, when it is less busy")]


def _broker(place: Place) -> tuple[Broker | None, list[Trouble]]:
    from crisper.celery.asking import BrokerSilent
    from crisper.celery.doctor.broker import ask
    from crisper.engine.doctor.facts import Trouble

    try:
        broker, troubles = ask(place.app, place.settings)
        return broker, list(troubles)
    except BrokerSilent as exc:
        return None, [Trouble("broker", str(exc), 'start its server, or app.conf.broker_url = "…"')]


# -- what people read --------------------------------------------------------


def show(out: Console, hazards: list[Finding]) -> None:
    if not hazards:
        return lines(out, HEALTHY)
    for finding in hazards:
        head = f"{finding.level.value}: {clean(finding.title, most=_MOST)} [{finding.id}]"
        lines(out, head, style=_STYLES[finding.level.value])
        hanging(out, "  why  ", clean(finding.why, most=_MOST))
        hanging(out, "  fix  ", clean(finding.fix, most=_MOST))
    counts = Counter(finding.level.value for finding in hazards)
    return lines(out, ", ".join(plural(count, level) for level, count in counts.items()))
