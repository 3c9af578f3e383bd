"""The group `crisper`: its options, its commands, and how every error ends."""

from __future__ import annotations

import importlib
import importlib.util
import re
from typing import Any

import click

from crisper import __version__
from crisper.errors import CrisperError
from crisper.faces.cli.place import Place
from crisper.faces.cli.text import clean

INTERRUPTED = 130

#: Imported when they are run or listed. A command whose package is not installed is not listed.
COMMANDS = {
    "demo": "crisper.faces.demo:demo",
    "migrate": "crisper.faces.cli.migrate:migrate",
    "status": "crisper.faces.cli.status:status",
    "workers": "crisper.faces.cli.workers:workers",
    "tasks": "crisper.faces.cli.tasks:tasks",
    "show": "crisper.faces.cli.show:show",
    "top": "crisper.faces.cli.top:top",
    "failures": "crisper.faces.cli.failures:failures",
    "queues": "crisper.faces.cli.queues:queues",
    "events": "crisper.faces.cli.events:events",
    "sweep": "crisper.faces.cli.sweep:sweep",
    "recover": "crisper.faces.cli.decide:recover",
    "discard": "crisper.faces.cli.decide:discard",
    "stop": "crisper.faces.cli.decide:stop",
    "doctor": "crisper.faces.cli.doctor:doctor",
    "export": "crisper.faces.cli.export:export",
    "export-config": "crisper.faces.shipped.command:export_config",
    "prune": "crisper.faces.cli.prune:prune",
    "completion": "crisper.faces.cli.completion:completion",
    "alerts": "crisper.faces.alerts.command:alerts",
    "serve": "crisper.faces.serve.command:serve",
}

_BEFORE_THE_COMMAND = ("-A", "--app", "--registry", "-C", "--no-color", "--traceback")


class Commands(click.Group):
    """Commands by name, imported late; errors as sentences on stderr, with the exit code they carry."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, where in COMMANDS.items() if _is_there(where.partition(":")[0])]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        module, _, attribute = COMMANDS[name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as exc:
            near = _near(args[0], self.list_commands(ctx))
            if near is None or "Did you mean" in exc.message:
                raise
            raise click.UsageError(f"{exc.message} Did you mean {near!r}?", ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CrisperError as exc:
            _say(str(exc))
            ctx.exit(exc.exit_code)
        except click.NoSuchOption as exc:
            if exc.option_name not in _BEFORE_THE_COMMAND:
                raise
            raise click.UsageError(
                f"{exc.option_name} goes before the command: {ctx.command_path} {exc.option_name} …"
                f" {ctx.invoked_subcommand}",
                exc.ctx,
            ) from None
        except (KeyboardInterrupt, click.Abort):
            _say("interrupted")
            ctx.exit(INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise
        except Exception as exc:
            if _is_an_interrupt(exc):
                _say("interrupted")
                ctx.exit(INTERRUPTED)
            if ctx.params.get("traceback"):
                raise
            _say(
                f"internal error: {type(exc).__name__}: {exc}."
                f" Please report what {ctx.command_path} --traceback {ctx.invoked_subcommand} … prints"
            )
            ctx.exit(1)


def _is_an_interrupt(exc: BaseException | None) -> bool:
    """Ctrl-C while a module is imported may arrive in another error's clothes."""
    while exc is not None and not isinstance(exc, KeyboardInterrupt):
        exc = exc.__cause__
    return exc is not None


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _near(name: str, names: list[str]) -> str | None:
    import difflib

    return next(iter(difflib.get_close_matches(name, names, n=1)), None)


def _say(sentence: str) -> None:
    click.echo(f"crisper: {clean(sentence, most=2000)}", err=True)


_PASSWORD = re.compile(r"://[^/@:]*:[^/@]+@")


@click.group(
    name="crisper",
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
@click.option("-A", "--app", metavar="APP", help="The Celery app: proj, or proj.module:attribute.")
@click.option("--registry", metavar="URL", help="The registry, instead of crisper_registry_url.")
@click.option("-C", "--no-color", is_flag=True, help="No colours; NO_COLOR does the same.")
@click.option("--traceback", is_flag=True, help="Show where an internal error came from.")
@click.version_option(__version__, prog_name="crisper")
@click.pass_context
def cli(
    ctx: click.Context, /, app: str | None, registry: str | None, no_color: bool, traceback: bool, **_: Any
) -> None:
    """Every attempt of a Celery task on record; lost ones come back.

    \b
    Begin here:
      crisper -A proj migrate                     create the registry
      crisper -A proj status                      how it stands
      crisper -A proj tasks --state quarantined   what waits for you
      crisper -A proj show TASK_ID                one task's whole story
      crisper -A proj recover TASK_ID             run it again

    `celery -A proj crisper …` is the same. Commands that only read need no
    app where CRISPER_REGISTRY_URL or --registry names the registry.

    \b
    Exit codes: 0 ok, 1 problems found, 2 usage, 69 registry or broker
    unreachable, 75 refused for safety, 130 interrupted.
    """
    if registry is not None and _PASSWORD.search(registry):
        _say("others on this host can read the password in --registry: set CRISPER_REGISTRY_URL instead")
    door = ctx.obj  # Celery's CLIContext, if we came in by its door
    ctx.obj = Place(
        app_name=app,
        celery_app=getattr(door, "app", None),
        registry=registry,
        no_color=no_color or bool(getattr(door, "no_color", False)),
    )
