"""Whose journal is whose on this host: a worker's own, and what says so inside."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from crisper.engine.adoption import Adopted
from crisper.engine.folder import own_file
from crisper.engine.journal import Journal
from crisper.engine.lines import Life
from crisper.engine.replay import Clock
from crisper.engine.window import Window
from crisper.errors import JournalError
from crisper.recorder.witness import boot_id


def registry_digest(url: str) -> str:
    """Names a registry by where it is, without its user, password and options."""
    parts = urlsplit(url)
    place = (parts.scheme.partition("+")[0], parts.hostname, parts.port, parts.path)
    return hashlib.sha256(repr(place).encode()).hexdigest()[:16]


def process_of(hello: dict[str, Any]) -> str:
    """What the incarnations of one process have in common: the end of their ids."""
    return str(hello["incarnation"]["id"])[-16:]


def life_of(hello: dict[str, Any]) -> Life:
    """What a journal's lines of this incarnation begin with."""
    grace_ms = int(hello["redelivery_grace"] * 1000)
    return Life(hello["incarnation"], registry_digest(hello["registry_url"]), grace_ms)


def window_of(hello: dict[str, Any]) -> Window | None:
    """What is kept for a failover of the registry; None: nothing is to be."""
    if not hello["failover_window"]:
        return None
    return Window(
        Path(hello["journal_dir"]),
        process_of(hello),
        seconds=hello["failover_window"],
        most_bytes=hello["journal_max_bytes"],
    )


def replay_clock() -> Clock:
    """Now, for the ages of what a journal tells."""
    return Clock(time.monotonic_ns() // 1_000_000, time.time_ns() // 1_000_000, boot_id())


def adoption_told(adopted: Adopted) -> str:
    """What became of a dead worker's journal, in a sentence."""
    whose = f"of {adopted.worker}, which is gone," if adopted.worker else "of a process that published"
    said = f"the journal {whose} was replayed"
    if adopted.damaged:
        said += f"; {adopted.damaged} places of it could not be read, and what stood there is not on record"
    return said


def open_journal(hello: dict[str, Any], trouble: Callable[[str], None]) -> Journal | None:
    """The journal of the worker's process, with what an earlier recorder of it left; None if it cannot be."""
    try:
        return Journal(
            own_file(Path(hello["journal_dir"]), process_of(hello)), most_bytes=hello["journal_max_bytes"]
        )
    except (JournalError, OSError) as exc:
        trouble(f"{exc}. Until then a registry that is away keeps tasks waiting")
        return None
