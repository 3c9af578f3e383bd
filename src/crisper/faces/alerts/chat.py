"""Chat, mail and pagers, by Apprise."""

from __future__ import annotations

import apprise

from crisper.errors import SettingsError
from crisper.faces.alerts.message import Message
from crisper.faces.alerts.webhook import NotDelivered


class Chat:
    """One of Apprise's addresses, which are the operator's own and hold secrets: they are never shown."""

    def __init__(self, number: int, url: str) -> None:
        self.name = f"chat {number}"
        self._apprise = apprise.Apprise()
        if not self._apprise.add(url):
            raise SettingsError(
                f"the address number {number} of crisper_alerts_chat is none that Apprise knows; see"
                " https://github.com/caronc/apprise/wiki"
            )

    def send(self, message: Message) -> str:
        """What came back, in words. Raises `NotDelivered`."""
        kind = apprise.NotifyType.WARNING if message.stage == "begun" else apprise.NotifyType.SUCCESS
        done = self._apprise.notify(
            title=message.title, body=message.body or message.title, notify_type=kind,
            body_format=apprise.NotifyFormat.TEXT,
        )  # fmt: skip
        if not done:
            raise NotDelivered(f"{self.name} did not take the message")
        return f"{self.name} took the message"
