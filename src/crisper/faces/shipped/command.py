"""`crisper export-config`."""

from __future__ import annotations

from pathlib import Path

import click

from crisper.errors import SettingsError
from crisper.faces.cli.place import Place
from crisper.faces.shipped.files import STARTS_WORKERS, TEMPLATES, Blanks, filled


@click.command("export-config")
@click.argument("what", metavar="WHAT", type=click.Choice(tuple(TEMPLATES)))
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Where to, instead of stdout; it must not be there yet.")  # fmt: skip
@click.option("--grace", type=click.IntRange(1, 604_800), default=300, show_default=True, metavar="SECONDS",
              help="From SIGTERM to SIGKILL: longer than your longest task.")  # fmt: skip
@click.pass_obj
def export_config(place: Place, what: str, output: Path | None, grace: int) -> None:
    """Files for what you already run, to begin with.

    \b
    prometheus   alert rules
    grafana      a dashboard, to be imported
    kubernetes   workers with probes and the right grace period; crisper serve
    systemd      a unit for a worker
    compose      a worker and crisper serve

    \b
    Examples:
      crisper export-config prometheus --output crisper-rules.yml
      crisper -A proj export-config kubernetes --grace 900 | less
    """
    lease = place.settings.lease if what == "prometheus" else 0
    named = what in STARTS_WORKERS and place.app_name is not None
    app = str(place.app_name) if named else "proj"
    text = filled(what, Blanks(app, grace, lease))
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise SettingsError(f"{output} is there already; move it away, or write to another file") from None
    except OSError as exc:
        raise SettingsError(f"{output} cannot be written: {exc.strerror}") from None
    click.echo(f"{what}: {output}", err=True)
