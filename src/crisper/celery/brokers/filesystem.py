"""The embedded broker: messages are files, and what was delivered is forgotten."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

from kombu.utils.encoding import str_to_bytes
from kombu.utils.json import dumps

from crisper.celery.brokers.base import Broker


class FilesystemBroker(Broker):
    """Publishes by rename.

    kombu makes the file under its final name and then writes it, and a consumer
    that lists the folder in between takes an empty message, which is then lost.
    """

    def __init__(self, app: Any, connection: Any) -> None:
        super().__init__(app, connection)
        self._channel = connection.default_channel
        self._channel._put = self._put

    def _put(self, queue: str, payload: dict[str, Any], **kwargs: Any) -> None:
        folder = Path(self._channel.data_folder_out)
        name = f"{round(time.monotonic() * 1000)}_{uuid.uuid4()}.{queue}.msg"
        part = folder / f"{name}.part"
        part.write_bytes(str_to_bytes(dumps(payload)))
        part.replace(folder / name)
