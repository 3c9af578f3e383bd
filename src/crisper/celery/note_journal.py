"""Notes of published messages that the registry did not take: in a journal of the process that published."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence

from celery.utils.log import get_logger

from crisper.core.model import Answer, Fence, Incarnation, Published, Record
from crisper.engine.adoption import Adopter
from crisper.engine.folder import SUFFIX, own_file
from crisper.engine.journal import Journal
from crisper.engine.lines import Life, Told
from crisper.engine.replay import Replay
from crisper.errors import JournalError
from crisper.recorder.host import ThisHost
from crisper.recorder.journals import registry_digest, replay_clock
from crisper.recorder.witness import process_start
from crisper.settings import Settings
from crisper.store.base import Store

logger = get_logger(__name__)


class NoteJournal:
    """One per process that publishes; its file is there only while it holds something. Used by one thread."""

    def __init__(self, settings: Settings, scope: str) -> None:
        host = ThisHost()
        self._folder, self._most = settings.journals, settings.journal_max_bytes
        self._name = f"published-{os.getpid()}"
        self._registry = registry_digest(settings.registry_url)
        self._lease = settings.lease
        one = Incarnation(
            "", "", scope, host.name, host.boot_id, host.pid_namespace, os.getpid(),
            process_start(os.getpid()) or 0, int(settings.lease * 1000), 0,
        )  # fmt: skip
        self._life = Life(dataclasses.asdict(one), self._registry, int(settings.redelivery_grace * 1000))
        self._host = host
        self._journal: Journal | None = None
        self._adopter: Adopter | None = None
        self._replay: Replay | None = None
        self._trouble = False

    @property
    def holds_something(self) -> bool:
        return self._replay is not None

    def take(self, messages: Sequence[Published]) -> bool:
        """Whether they are on the disk now."""
        clock = replay_clock()
        lines = [Told(clock.monotonic - m.age_ms, clock.wall - m.age_ms, m) for m in messages]
        try:
            journal = self._open()
            journal.append(lines if journal.end else [self._life, *lines])
        except (JournalError, OSError) as exc:
            if not self._trouble:
                logger.error("crisper: what is published here is kept in memory only: %s", exc)
            self._trouble = True
            return False
        self._trouble = False
        self._replay = self._replay or Replay(journal)
        return True

    def _open(self) -> Journal:
        if self._journal is None:
            self._journal = Journal(own_file(self._folder, self._name), most_bytes=self._most)
        return self._journal

    def give(self, store: Store) -> None:
        """Some of it goes to the registry, which answers again. Raises `RegistryUnreachable`."""
        if self._replay is None or self._journal is None:
            return
        self._replay.step(store, Fence("", 0), _nobody, replay_clock())
        if self._replay.is_done:
            self._journal.remove()
            self._journal = self._replay = None

    def adopt(self, store: Store) -> bool:
        """One step of what other processes that published left when they died; whether there is more.

        Raises `RegistryUnreachable`."""
        if self._adopter is None:
            self._adopter = Adopter(
                store, self._folder, self._registry, self._host,
                clock=replay_clock, lease=self._lease, own=self._name, only=f"published-*{SUFFIX}",
            )  # fmt: skip
        return self._adopter.tick(time.monotonic()) is not None or self._adopter.is_busy


def _nobody(records: list[Record]) -> list[Answer]:
    """A process that only publishes runs nothing."""
    return []
