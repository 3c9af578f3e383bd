"""`crisper serve`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from crisper.errors import SettingsError
from crisper.faces.cli.place import Place
from crisper.faces.cli.text import clean

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=8555, show_default=True, metavar="N",
              help="0: any that is free.")  # fmt: skip
@click.option("--accounts", type=_FILE, metavar="FILE", help="Who may sign in. Needed beyond loopback.")
@click.option("--add-account", "new", metavar="NAME", help="Write an account into --accounts, and end.")
@click.option("--role", type=click.Choice(["viewer", "operator"]), default="viewer", show_default=True,
              help="Of --add-account: an operator may recover, discard and stop.")  # fmt: skip
@click.option("--allow-host", "allow_hosts", multiple=True, metavar="NAME",
              help="Another name to be called by, such as a proxy's. May be repeated.")  # fmt: skip
@click.option("--certificate", type=_FILE, metavar="FILE", help="Serve HTTPS with this certificate chain.")
@click.option("--key", type=_FILE, metavar="FILE", help="Its private key.")
@click.option("--no-sweep", is_flag=True, help="Leave sweeping to the workers.")
@click.pass_obj
def serve(place: Place, /, **options: Any) -> None:
    """Sweeper, dashboard, JSON API and metrics in one process.

    On loopback, without accounts, it prints a link that opens one session.
    Any other address needs accounts; passwords are asked for, or read from
    stdin, never taken from the command line. The registry may be away: it
    says so, and goes on.

    \b
    Examples:
      crisper -A proj serve
      crisper serve --accounts accounts --add-account ann --role operator
      crisper -A proj serve --host 0.0.0.0 --accounts accounts
          --certificate chain.pem --key key.pem
    """
    try:
        import jinja2  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise SettingsError("crisper serve needs more: pip install 'celery-crisper[serve]'") from None
    name, role = options.pop("new"), options.pop("role")
    if name is not None:
        return _add(options["accounts"], name, role)
    from crisper.faces.serve.running import Options, serve

    sweeps = not options.pop("no_sweep")
    return serve(place, Options(**options, sweeps=sweeps), _say)


def _add(file: Path | None, name: str, role: str) -> None:
    from crisper.faces.serve import accounts
    from crisper.faces.serve.access import Role

    if file is None:
        raise SettingsError("into which file? Say --accounts FILE")
    if sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        password = sys.stdin.readline().rstrip("\n")
    accounts.add(file, accounts.account(name, Role[role.upper()], password))
    click.echo(f"{role} {clean(name)} is in {file}", err=True)


def _say(sentence: str) -> None:
    click.echo(f"crisper serve: {clean(sentence, most=2000)}", err=True)
