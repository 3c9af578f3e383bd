"""Where alerts go, by the settings."""

from __future__ import annotations

from typing import Protocol

from crisper.errors import SettingsError
from crisper.faces.alerts.message import Message
from crisper.settings import Settings


class Channel(Protocol):
    name: str

    def send(self, message: Message) -> str:
        """What came back, in words. Raises `CrisperError`."""


def channels(settings: Settings) -> tuple[Channel, ...]:
    """Raises `SettingsError` where a package is missing, or an address makes no sense."""
    found: list[Channel] = []
    if settings.alerts_webhook:
        found.append(_webhook(settings))
    if settings.alerts_chat:
        found += _chats(settings)
    return tuple(found)


def _webhook(settings: Settings) -> Channel:
    try:
        from crisper.faces.alerts.webhook import Webhook
    except ImportError:
        raise SettingsError(
            "crisper_alerts_webhook needs more: pip install 'celery-crisper[alerts]'"
        ) from None
    return Webhook(settings.alerts_webhook, settings.alerts_secret, private=settings.alerts_private)


def _chats(settings: Settings) -> list[Channel]:
    try:
        from crisper.faces.alerts.chat import Chat
    except ImportError:
        raise SettingsError("crisper_alerts_chat needs more: pip install 'celery-crisper[chat]'") from None
    return [Chat(number, url) for number, url in enumerate(settings.alerts_chat, 1)]
