"""The embedded broker: messages are files, and what was delivered is forgotten."""

from __future__ import annotations

import contextlib
import functools
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kombu.utils.encoding import str_to_bytes
from kombu.utils.json import dumps

from crisper.celery.brokers.base import MESSAGE_ID, Broker, Waiting
from crisper.core.model import Unclaimed
from crisper.settings import Settings


def put_by_rename(channel: Any, queue: str, payload: dict[str, Any], **kwargs: Any) -> None:
    """In place of the channel's own `_put`.

    kombu makes the file under its final name and then writes it: a consumer that lists the folder
    in between reads an empty message, loses it, and ends.
    """
    folder = Path(channel.data_folder_out)
    name = f"{round(time.monotonic() * 1000)}_{uuid.uuid4()}.{queue}.msg"
    part = folder / f"{uuid.uuid4()}.part"  # without the queue's name, by which consumers look
    part.write_bytes(str_to_bytes(dumps(payload)))
    part.replace(folder / name)


class FilesystemBroker(Broker):
    """Never gives back; publishes by rename."""

    def __init__(self, app: Any, connection: Any, settings: Settings) -> None:
        super().__init__(app, connection, settings)
        channel = connection.default_channel
        self._folder = Path(channel.data_folder_in)
        channel._put = functools.partial(put_by_rename, channel)

    def locate(self, messages: Sequence[Unclaimed], *, unkept: float) -> dict[str, bool | None]:
        waiting: set[bytes] = set()
        for file in self._folder.glob("*.msg"):
            with contextlib.suppress(FileNotFoundError):  # just taken
                waiting.update(MESSAGE_ID.findall(file.read_bytes()))
        return {one.message_id: one.message_id.encode() in waiting for one in messages}

    def waiting(self, queue: str) -> Waiting:
        written = []
        for file in self._folder.glob("*.msg"):
            if file.name.endswith(f".{queue}.msg"):
                with contextlib.suppress(FileNotFoundError):  # just taken
                    written.append(file.stat().st_mtime)
        return Waiting(len(written), oldest_at=min(written, default=None))
