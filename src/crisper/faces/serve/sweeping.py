"""The sweeper in `crisper serve`: outside any worker, elected like any other."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable

from crisper.engine.elected import Elected
from crisper.engine.pruner import Retention
from crisper.engine.sweeper import Election, Sweeper, Swept
from crisper.errors import CrisperError
from crisper.faces.cli.acting import adopter_of
from crisper.faces.serve.registry import Registry
from crisper.recorder.host import Patient
from crisper.store import totals
from crisper.store.base import Term
from crisper.store.sql import SqlStore

#: After the registry did not answer.
AGAIN_SECONDS = 5.0


class Sweeping:
    """A thread that sweeps, unless told not to, and keeps the totals. `say` is told what is worth it."""

    def __init__(self, registry: Registry, *, sweeps: bool, say: Callable[[str], None]) -> None:
        self._registry, self._sweeps, self._say = registry, sweeps, say
        self._me = f"serve:{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="crisper-serve-sweeper", daemon=True)
        self._trouble: str | None = None
        self._leads: bool | None = None
        self._term: Term | None = None
        self._moved_at = time.monotonic()

    @property
    def state(self) -> str:
        """`leads`, `observes`, `off`, `away` (the registry is), `starting`, or `dead`: restart it."""
        if not self._thread.is_alive():
            return "dead"
        if self._trouble is not None:
            return "away"
        if not self._sweeps:
            return "off"
        return "starting" if self._leads is None else "leads" if self._leads else "observes"

    @property
    def silent_seconds(self) -> float:
        """Since the elected sweeper was last seen to renew its term: grows if nobody sweeps."""
        return time.monotonic() - self._moved_at

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Waits for the pass under way, as long as one call to the registry may take."""
        self._stop.set()
        self._thread.join(AGAIN_SECONDS)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with self._registry.store() as store:
                    self._sweep(store)
            except CrisperError as exc:
                self._note(str(exc))
            except Exception as exc:
                self._note(f"internal error in the sweeper: {type(exc).__name__}: {exc}")
            self._stop.wait(AGAIN_SECONDS)

    def _sweep(self, store: SqlStore) -> None:
        """Until the registry fails: what was observed before that counts no more, so all begins anew."""
        place = self._registry.place
        settings, adopter = place.settings, adopter_of(place, store)
        sweeper = Sweeper(
            store,
            self._me,
            lease=settings.lease,
            host=Patient([adopter]),
            warn=self._say,
            clock=time.monotonic,
        )
        retention = Retention.of(*settings.retention) if place.app is not None else None
        elected = Elected(store, retention, warn=self._say)
        self._moved_at = time.monotonic()
        try:
            more = False
            while not self._stop.wait(0 if more else settings.sweep_interval):
                if self._sweeps:
                    now = time.monotonic()
                    adopter.tick(now)
                    swept = sweeper.tick(now)
                    more = self._tell(swept)
                    elected.tick(now, leads=swept.leads)
                self._watch(store)
                totals.follow(store)
                self._well()
        finally:
            adopter.close()
            self._leads = None

    def _watch(self, store: SqlStore) -> None:
        term = store.term(Election.NAME)
        if term != self._term:
            self._term, self._moved_at = term, time.monotonic()

    def _tell(self, swept: Swept) -> bool:
        self._leads = swept.leads
        for judged in swept.declared:
            self._say(f"declared lost: {judged.worker}, by {judged.how}")
        if swept.closed:
            self._say(f"closed as lost: {swept.closed} attempts")
        return swept.more

    def _note(self, sentence: str) -> None:
        if sentence != self._trouble:
            self._say(sentence)
        self._trouble = sentence

    def _well(self) -> None:
        if self._trouble is not None:
            self._say("the registry answers again")
        self._trouble = None
