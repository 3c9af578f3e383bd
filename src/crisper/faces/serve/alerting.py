"""Alerts in `crisper serve`: a thread that looks, and tells people; of several `serve` one is elected to."""

from __future__ import annotations

import hashlib
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from crisper.engine.alerts import book as books
from crisper.engine.alerts import incident
from crisper.engine.alerts.facts import look_at
from crisper.engine.alerts.incident import OVER, REGISTRY_DOWN, Book, Facts, Incident
from crisper.engine.sweeper import Election
from crisper.errors import CrisperError, RegistryUnreachable
from crisper.faces.alerts.channels import Channel
from crisper.faces.alerts.message import of_incident
from crisper.faces.serve.registry import Registry
from crisper.store.base import Term
from crisper.store.sql import SqlStore

EVERY_SECONDS = 5.0
#: A registry that is away for so long is an incident, not a restart.
DOWN_SECONDS = 60.0
#: Outages that begin within it have one id. Not longer than `DOWN_SECONDS`: one outage of it is over by then.
OUTAGE_MS = 60_000
#: Nobody sweeps: for so long, or for so many leases.
SILENT_SECONDS, SILENT_LEASES = 60.0, 3
ELECTION = "alerts"
#: Others write the book every few seconds. A message that is not kept as sent is sent again, under its id.
MOST_RACES = 100


class Alerting:
    """`say` is told what could not be sent."""

    def __init__(
        self,
        registry: Registry,
        channels: tuple[Channel, ...],
        *,
        say: Callable[[str], None],
        every: float = EVERY_SECONDS,
        down_after: float = DOWN_SECONDS,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._clock = clock
        self._registry, self._say, self._every, self._down_after = registry, say, every, down_after
        self._channels = {channel.name: channel for channel in channels}
        settings = registry.place.settings
        self._kinds, self._lease = settings.alerts_on, settings.lease
        self._silence = max(SILENT_SECONDS, SILENT_LEASES * settings.lease)
        self._me = f"serve:{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="crisper-serve-alerts", daemon=True)
        self._leads: bool | None = None  # None: the registry has not said yet
        self._registry_id = "unknown"
        self._swept: tuple[Term | None, float] = None, time.monotonic()
        self._down_since: float | None = None
        self._outage: Incident | None = None
        self._trouble = ""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Waits for what is being sent, a little."""
        self._stop.set()
        self._thread.join(self._every)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with self._registry.store() as store:
                    self._follow(store)
            except RegistryUnreachable:
                self._guarded(self._away)
            except CrisperError as exc:
                self._say_once(f"no alerts: {exc}")
            except Exception as exc:
                self._internal(exc)
            self._stop.wait(self._every)

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as exc:
            self._internal(exc)

    def _internal(self, exc: Exception) -> None:
        self._say_once(f"internal error in the alerts: {type(exc).__name__}: {exc}")

    def _say_once(self, sentence: str) -> None:
        """Not every few seconds again."""
        if sentence != self._trouble:
            self._say(sentence)
        self._trouble = sentence

    # -- while the registry answers -------------------------------------------

    def _follow(self, store: SqlStore) -> None:
        self._swept = None, time.monotonic()
        election = Election(store, self._me, self._lease, ELECTION)
        while not self._stop.is_set():
            self._leads = election.leads(time.monotonic())
            self._answers()
            if self._leads:
                self.tick(store)
            self._trouble = ""
            self._stop.wait(self._every)

    def tick(self, store: SqlStore) -> None:
        """One pass: look, decide, keep, tell. Raises `RegistryUnreachable`."""
        self._registry_id = store.identity()
        facts = look_at(store, silent_for=self._silent_for(store), silence=self._silence)
        taken: tuple[Incident, ...] = ()

        def decide(was: Book | None) -> Book:
            nonlocal taken
            book = incident.look(
                was or incident.first(facts), facts, kinds=self._kinds, channels=tuple(self._channels),
                new_id=lambda: secrets.token_hex(16),
            )  # fmt: skip
            book, taken = incident.take(book, facts.now)
            return book

        if books.change(store, decide) is not None:  # else somebody else has just looked
            for one in taken:
                self._tell_and_keep(store, one, facts)

    def _tell_and_keep(self, store: SqlStore, one: Incident, facts: Facts) -> None:
        reached, jitter = self._tell(one), random.random()

        def keep(was: Book | None) -> Book:
            return incident.told(was or incident.first(facts), one, reached, facts.now, jitter)

        for _ in range(MOST_RACES):
            if books.change(store, keep) is not None:
                return  # else somebody has looked meanwhile: it is read again

    def _silent_for(self, store: SqlStore) -> float:
        term, now = store.term(Election.NAME), time.monotonic()
        if term != self._swept[0]:
            self._swept = term, now
        return now - self._swept[1]

    def _tell(self, one: Incident) -> list[str]:
        """The names of the channels that took it."""
        message, reached = of_incident(one, self._registry_id), []
        for name in one.left:
            channel = self._channels.get(name)
            try:
                if channel is not None:
                    channel.send(message)
                reached.append(name)  # one that is configured no more is not waited for
            except CrisperError as exc:
                self._say(f"an alert ({one.kind}) could not be sent: {exc}")
        return reached

    # -- while it does not ----------------------------------------------------

    def _away(self) -> None:
        """There is no book to keep then: whoever led the alerts last tells, and whoever has never reached it;
        of one outage they all say the same id."""
        now = time.monotonic()
        self._down_since = self._down_since if self._down_since is not None else now
        long = now - self._down_since >= self._down_after
        if long and self._outage is None and self._leads is not False and REGISTRY_DOWN in self._kinds:
            at = self._clock() // 1_000_000
            began = at - int((now - self._down_since) * 1000)
            self._outage = Incident(self._id_of_outage(began), REGISTRY_DOWN, at, {"registry": {}},
                                    left=tuple(self._channels))  # fmt: skip
        self._tell_of_outage()

    def _id_of_outage(self, began_ms: int) -> str:
        """By the registry's URL and the minute: a receiver that knows the id has been told by another."""
        told = f"{self._registry.reading.where} {began_ms // OUTAGE_MS}"
        return hashlib.sha256(told.encode()).hexdigest()[:32]

    def _answers(self) -> None:
        self._down_since = None
        if self._outage is not None and self._outage.stage != OVER:
            reached = tuple(name for name in self._channels if name not in self._outage.left)
            self._outage = replace(self._outage, stage=OVER, left=reached, ended=self._clock() // 1_000_000)
        self._tell_of_outage()
        if self._outage is not None and not self._outage.left:
            self._outage = None

    def _tell_of_outage(self) -> None:
        if self._outage is not None and self._outage.left:
            reached = self._tell(self._outage)
            left = tuple(name for name in self._outage.left if name not in reached)
            self._outage = replace(self._outage, left=left)
