"""Writes notes of published messages to the registry, from processes that have no recorder."""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from celery.utils.log import get_logger

from crisper.celery.note_journal import NoteJournal
from crisper.core.model import Published
from crisper.engine.deadline import Watchdog
from crisper.recorder.records import Reader
from crisper.settings import Settings
from crisper.store.open import is_sqlite, open_store, sqlite_path
from crisper.store.version import check_light

logger = get_logger(__name__)

#: Notes that wait for the registry, at most; more are counted and given up.
MOST, MOST_BYTES = 10_000, 64 * 2**20
#: How long to wait for more before writing, in seconds: a thread that writes each note as it comes fights
#: the publisher for the interpreter.
LINGER = 0.1
#: Written together, at most.
BATCH = 500
#: A call to the registry that takes longer has failed, in seconds.
CALL_SECONDS = 5.0
RETRY_SECONDS = 1.0
#: How long a process that ends waits for its last notes, in seconds.
LAST_SECONDS = 2.0


class NoteWriter:
    """Writes notes to the registry: in the background, or at once."""

    def __init__(self, settings: Settings, scope: str) -> None:
        self._settings, self._scope = settings, scope
        self._reader = Reader(
            preview_bytes=settings.preview_bytes,
            redact=settings.redact,
            max_message_bytes=settings.max_message_bytes,
        )
        self._journal = NoteJournal(settings, scope) if settings.on_registry_down == "journal" else None
        self._adopted = False
        self._notes: deque[tuple[Any, ...]] = deque()
        self._bytes = self._given_up = 0
        self._lock, self._filled = threading.Lock(), threading.Condition()
        self._store: Any = None
        self._watchdog: Watchdog | None = None
        self._thread: threading.Thread | None = None
        self._troubled_at, self._ending = float("-inf"), False

    # -- in the background ----------------------------------------------------

    def put(self, note: tuple[Any, ...]) -> None:
        """Never blocks, never raises."""
        with self._filled:
            size = len(note[6]) + 1000
            if len(self._notes) >= MOST or self._bytes + size > MOST_BYTES:
                self._given_up += 1
                return
            self._notes.append(note)
            self._bytes += size
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="crisper-publish", daemon=True)
                self._thread.start()
                atexit.register(self._last)
            if len(self._notes) == 1:
                self._filled.notify()

    def _run(self) -> None:
        while True:
            with self._filled:
                while not self._notes and not self._has_journal():
                    self._filled.wait()
                if not self._notes:
                    self._filled.wait(RETRY_SECONDS)
            time.sleep(0 if self._ending else LINGER)
            with self._filled:
                batch = [self._notes[i] for i in range(min(BATCH, len(self._notes)))]
            answers = not batch or self._write(batch)
            if not (answers or self._to_journal(batch)):
                time.sleep(RETRY_SECONDS)
                continue
            with self._filled:
                for note in batch:
                    self._notes.popleft()
                    self._bytes -= len(note[6]) + 1000
                given_up, self._given_up = self._given_up, 0
                self._filled.notify_all()
            if answers:
                self._from_journals()
            if given_up:
                logger.error("crisper: %d messages were published without a record: the registry does not"
                             " keep up", given_up)  # fmt: skip

    def _has_journal(self) -> bool:
        return self._journal is not None and self._journal.holds_something

    def _to_journal(self, batch: list[tuple[Any, ...]]) -> bool:
        """The registry does not answer: on this host's disk they outlive this process."""
        return self._journal is not None and bool(batch) and self._journal.take(self._read(batch))

    def _from_journals(self) -> None:
        """The registry answers: what ours holds, and, once, what processes that are gone have left."""
        while self._has_journal() and self._call(self._journal.give):  # type: ignore[union-attr]
            pass
        while self._journal is not None and not self._adopted and self._call(self._adopt):
            pass

    def _adopt(self, store: Any) -> None:
        assert self._journal is not None
        self._adopted = not self._journal.adopt(store)

    def _last(self) -> None:
        self._ending, give_up = True, time.monotonic() + LAST_SECONDS
        with self._filled:
            while self._notes and (left := give_up - time.monotonic()) > 0:
                self._filled.wait(left)

    # -- at once --------------------------------------------------------------

    def write_now(self, note: tuple[Any, ...]) -> bool:
        """Whether the note is on record; if not, it goes the other way after the message has left."""
        return self._write([note])

    def retract(self, note: tuple[Any, ...]) -> None:
        self._call(lambda store: store.retract(note[1]))

    # -- the registry ---------------------------------------------------------

    def _write(self, notes: list[tuple[Any, ...]]) -> bool:
        messages = self._read(notes)
        due = int(self._settings.redelivery_grace * 1000)
        return self._call(lambda store: store.publish(messages, due_in_ms=due))

    def _read(self, notes: list[tuple[Any, ...]]) -> list[Published]:
        return [self._reader.published(note, self._scope, self._settings.loss_budget) for note in notes]

    def _call(self, verb: Callable[[Any], None]) -> bool:
        with self._lock:
            try:
                store = self._connected()
                assert self._watchdog is not None
                with self._watchdog.call(store):
                    verb(store)
            except Exception as exc:
                self._trouble(exc)
                return False
            return True

    def _connected(self) -> Any:
        if self._store is None:
            self._watchdog = self._watchdog or Watchdog(CALL_SECONDS)
            _make_embedded(self._settings.registry_url)
            store = open_store(self._settings.registry_url, application_name="crisper publisher")
            with self._watchdog.call(store):
                check_light(store)
            self._store = store
        return self._store

    def _trouble(self, exc: Exception) -> None:
        """Said once a minute: a publish is never failed by it."""
        if time.monotonic() - self._troubled_at > 60:
            self._troubled_at = time.monotonic()
            logger.error("crisper: what is published here is not on record yet: %s", exc)


def _make_embedded(url: str) -> None:
    """The first publish may come before the first worker."""
    if is_sqlite(url) and not sqlite_path(url).exists():
        from crisper.store import migrate

        migrate.ensure(url)
