"""`crisper alerts test` and `crisper alerts secret`."""

from __future__ import annotations

import base64
import secrets
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from crisper.errors import CrisperError, SettingsError
from crisper.faces.cli.output import emit, json_option
from crisper.faces.cli.place import Place
from crisper.faces.cli.text import clean

if TYPE_CHECKING:
    from crisper.faces.alerts.channels import Channel

SECRET_BYTES = 32


@click.group()
def alerts() -> None:
    """Incidents, told by a webhook and by chat.

    `crisper serve` sends them: worker lost, quarantine, brake, registry down,
    sweeper silent. One message when it begins, one when it is over.

    \b
    Example:
      crisper -A proj alerts test
    """


@alerts.command()
@json_option
@click.pass_obj
def test(place: Place, as_json: bool) -> None:
    """Send one to every channel, and say what came back.

    \b
    Example:
      crisper -A proj alerts test
    """
    from crisper.faces.alerts.channels import channels
    from crisper.faces.alerts.message import a_test

    found = channels(place.settings)
    if not found:
        raise SettingsError("nobody is told: set crisper_alerts_webhook or crisper_alerts_chat")
    message = a_test(f"test-{secrets.token_hex(8)}", time.time_ns() // 1_000_000)
    answers = [_sent(channel, message) for channel in found]
    if as_json:
        emit({"alerts": answers})
    for answer in [] if as_json else answers:
        click.echo(f"{answer['channel']}: {clean(answer['said'], most=500)}", err=not answer["told"])
    if not all(answer["told"] for answer in answers):
        sys.exit(1)


@alerts.command()
def secret() -> None:
    """Print a new secret, for crisper_alerts_secret and for the receiver."""
    click.echo(f"whsec_{base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()}")


def _sent(channel: Channel, message: Any) -> dict[str, Any]:
    try:
        return {"channel": channel.name, "told": True, "said": channel.send(message)}
    except CrisperError as exc:
        return {"channel": channel.name, "told": False, "said": str(exc)}
