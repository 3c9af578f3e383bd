"""`crisper migrate`."""

from __future__ import annotations

import click

from crisper.faces.cli.output import emit, json_option
from crisper.faces.cli.place import Place


@click.command()
@click.option("--check", is_flag=True, help="Change nothing; exit 1 if the registry is not as it must be.")
@click.option("--sql", is_flag=True, help="Print the statements instead of running them.")
@json_option
@click.pass_obj
def migrate(place: Place, check: bool, sql: bool, as_json: bool) -> None:
    """Create the registry, or upgrade it.

    Safe to repeat, and safe for any number of hosts at once: one does it, the
    others wait. Run it before workers of a newer Crisper start.

    \b
    Examples:
      crisper -A proj migrate
      crisper --registry postgresql://crisper@db/crisper migrate
      crisper -A proj migrate --check        in a deploy's first step
      crisper -A proj migrate --sql | less   for whoever may run it
    """
    from crisper.store import migrate as migrations
    from crisper.store import version
    from crisper.store.open import redacted

    url = place.settings.registry_url
    if check and sql:
        raise click.UsageError("--check and --sql exclude each other: the one asks, the other only prints")
    if sql:
        script = migrations.sql(url)
        return (
            emit({"schema": version.HEAD_REVISION, "sql": script})
            if as_json
            else click.echo(script, nl=False)
        )
    if check:
        migrations.check(url)
    else:
        migrations.upgrade(url)
    if as_json:
        return emit({"registry": redacted(url), "schema": version.HEAD_REVISION, "up_to_date": True})
    return click.echo(f"The registry {redacted(url)} is up to date (schema {version.HEAD_REVISION}).")
