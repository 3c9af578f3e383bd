"""Whose journal is whose on this host: a worker's own, and what says so inside."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from crisper.engine.folder import own_file
from crisper.engine.journal import Journal
from crisper.engine.lines import Life
from crisper.errors import JournalError


def registry_digest(url: str) -> str:
    """Names a registry by where it is, without its user, password and options."""
    parts = urlsplit(url)
    place = (parts.scheme.partition("+")[0], parts.hostname, parts.port, parts.path)
    return hashlib.sha256(repr(place).encode()).hexdigest()[:16]


def life_of(hello: dict[str, Any]) -> Life:
    """What a journal's lines of this incarnation begin with."""
    grace_ms = int(hello["redelivery_grace"] * 1000)
    return Life(hello["incarnation"], registry_digest(hello["registry_url"]), grace_ms)


def open_journal(hello: dict[str, Any], trouble: Callable[[str], None]) -> Journal | None:
    """The journal of the worker's process, with what an earlier recorder of it left; None if it cannot be."""
    # The incarnations of one process have the end of their ids in common.
    name = str(hello["incarnation"]["id"])[-16:]
    try:
        return Journal(own_file(Path(hello["journal_dir"]), name), most_bytes=hello["journal_max_bytes"])
    except (JournalError, OSError) as exc:
        trouble(f"{exc}. Until then a registry that is away keeps tasks waiting")
        return None
