"""Getting the fence: on a thread of its own, so that a registry that hangs keeps nobody waiting."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from crisper.core.model import Fence, Incarnation, Worker
from crisper.engine.circuit import Circuit
from crisper.engine.deadline import Watchdog
from crisper.errors import CrisperError, RegistryUnreachable, RegistryUnusable, SchemaMissing, SchemaOutdated
from crisper.store.base import Store
from crisper.store.database import Place
from crisper.store.ensure import told
from crisper.store.open import is_sqlite, open_store, sqlite_path
from crisper.store.version import check_light


class Enrolled(NamedTuple):
    store: Store
    fence: Fence
    place: Place  # where the store's connection leads


class Over(NamedTuple):
    """The incarnation was declared lost."""


class Away(NamedTuple):
    """Not yet; it is tried again."""

    why: RegistryUnreachable


class Moved(NamedTuple):
    """Another server took the registry's place."""


class Refused(NamedTuple):
    """What no waiting will mend."""

    why: CrisperError


Outcome = Enrolled | Over | Away | Moved | Refused


class Enrollment(threading.Thread):
    """Tries until it has the fence. `done` is called for every outcome, from this thread."""

    def __init__(
        self,
        hello: dict[str, Any],
        watchdog: Watchdog,
        circuit: Circuit,
        done: Callable[[Enrollment, Outcome], None],
    ) -> None:
        super().__init__(name="crisper-enroll", daemon=True)
        self._hello, self._watchdog, self._circuit, self._done = hello, watchdog, circuit, done
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        while not self._stopped.is_set():
            outcome = self._try()
            self._done(self, outcome)
            if not isinstance(outcome, Away):
                return
            self._stopped.wait(self._circuit.trial_failed())

    def _try(self) -> Outcome:
        hello = self._hello
        began, place = self._circuit.now(), Place()
        name = f"crisper {hello['nodename']}"
        try:
            store = open_store(hello["registry_url"], application_name=name, place=place)
        except CrisperError as exc:
            return Refused(exc)
        try:
            with self._watchdog.call(store):
                _ready_schema(store, hello["registry_url"])
                fence = fence_of(store, hello)
        except CrisperError as exc:
            store.close()
            if isinstance(exc, RegistryUnreachable):
                unusable = hello["starting"] and isinstance(exc, RegistryUnusable)
                return Refused(exc) if unusable else Away(exc)
            return Refused(exc)
        if fence is None:
            store.close()
            return Over()
        self._circuit.trial_worked(began)
        return Enrolled(store, fence, place)


def _ready_schema(store: Any, url: str) -> None:
    """An embedded registry is made ready here; a server's is somebody's to migrate."""
    try:
        if is_sqlite(url) and not sqlite_path(url).exists():
            raise SchemaMissing(url)
        check_light(store)
    except (SchemaMissing, SchemaOutdated):
        if not is_sqlite(url):
            raise
        # In a process of its own: the migration tools would stay in our memory.
        command = [sys.executable, "-P", "-m", "crisper.store.ensure"]
        made = subprocess.run(command, input=url, capture_output=True, text=True, check=False)
        if made.returncode:
            raise told(made.stdout) from None
        check_light(store)


def fence_of(store: Store, hello: dict[str, Any]) -> Fence | None:
    """Enroll, or take the fence over from the recorder before us; None if it is over."""
    one = Incarnation(**hello["incarnation"])
    if not hello["generation"]:
        return store.enroll(one)
    # Recorders before us may have moved the fence, and died before the parent heard of it:
    # the generation to take over from is the one on record. The parent killed and reaped
    # them before it started us, so nobody else writes in its name.
    known = _alive(store, one.id)
    if known is None:
        store.enroll(one)  # only a registry that went back in time has never heard of it
        known = _alive(store, one.id)
    return None if known is None else store.replace_recorder(Fence(one.id, known.generation))


def _alive(store: Store, id: str) -> Worker | None:
    return next((worker for worker in store.alive() if worker.id == id), None)
