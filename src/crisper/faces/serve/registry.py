"""The registry as `crisper serve` asks it, and what a person has done to it. From any thread."""

from __future__ import annotations

import functools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from crisper.engine import control
from crisper.engine.control import Done
from crisper.engine.deadline import Watchdog
from crisper.engine.survey import Survey
from crisper.errors import CrisperError
from crisper.faces.cli import bulk
from crisper.faces.cli import queues as cli_queues
from crisper.faces.cli.acting import carry_out
from crisper.faces.cli.place import CALL_SECONDS, Place
from crisper.faces.cli.status import blind
from crisper.faces.serve.asked import Decision, Seen
from crisper.faces.serve.shared import Shared
from crisper.store import migrate
from crisper.store.open import open_store
from crisper.store.sql import SqlStore

if TYPE_CHECKING:
    from crisper.celery.rollcall import RollCall

NAME = "crisper serve"
#: The broker is asked who answers no more often than that; it takes a second.
ROLL_CALL_SECONDS = 30.0
DEPTHS_SECONDS = 5.0
#: What many pages show is that old at most.
SHOWN_SECONDS = 1.0

VERBS = {"recover": control.recover, "discard": control.discard, "stop": control.stop}


class Registry:
    """Connects only when it is asked, so that it may be away."""

    def __init__(self, place: Place) -> None:
        self.place, self._url = place, place.url()
        self.survey = Survey(self._url, application_name=NAME)
        self.reading = self.survey.reading
        #: What pages show of the moment, and what changes slowly or is asked of the broker.
        self.shown, self.slow = Shared(), Shared()
        self._watchdog = Watchdog(CALL_SECONDS)
        self._roll = _Roll(place)
        self._acting = threading.Lock()

    def close(self) -> None:
        self.survey.close()
        self._watchdog.stop()

    @contextmanager
    def store(self) -> Iterator[SqlStore]:
        """For the verbs, in one thread. Raises the `RegistryError`s of a registry that cannot be used."""
        migrate.check(self._url)
        with closing(open_store(self._url, application_name=NAME, within=self._watchdog.call)) as store:
            yield store

    def status(self) -> dict[str, Any]:
        """As `crisper status --json`; of the broker it knows what it heard lately."""
        answer = self.survey.status()
        answer["workers"]["blind"] = self._roll.blind(self.survey)
        return answer

    def decide(self, verb: str, task_id: str, decision: Decision, *, by: str) -> Done:
        [done] = self.decide_many(verb, [Seen(task_id, decision.saw)], decision.reason, by=by)
        return done

    def decide_many(self, verb: str, seen: list[Seen], reason: str, *, by: str) -> list[Done]:
        """One after the other: each may open a connection to the broker. Each task is compared with what was
        seen of it. Where broker or registry fail, the rest is not among these."""
        reason, act = reason or "asked for in the dashboard", VERBS[verb]
        with self._acting, self.store() as store:

            def do(these: list[Seen]) -> list[Done]:
                decided = [
                    one
                    for task_id, saw in these
                    for one in act(store, self.survey, [task_id], by=by, reason=reason, saw=saw)
                ]
                return carry_out(self.place, store, decided)

            done: list[Done] = []
            try:
                for batch in bulk.acted(do, seen):
                    done += batch
            except CrisperError:
                if not done:
                    raise  # else what is done is told, and the rest is looked at again
            finally:
                self.shown.forget()
            return done

    def queues(self) -> dict[str, Any]:
        """As `crisper queues --json`; the broker is asked again after `DEPTHS_SECONDS`."""
        asked = functools.partial(cli_queues.told, self.place, self.reading)
        return self.slow.ask("queues", asked, seconds=DEPTHS_SECONDS)


def signature(name: str) -> str:
    """Who decided, for the audit row."""
    return f"{name}@{socket.gethostname()}"


class _Roll:
    """Who answers at the broker: told is what was heard last, so that no page waits for those who do not."""

    def __init__(self, place: Place) -> None:
        self._app = place.app
        self._lock = threading.Lock()
        self._heard: list[str] | None = None
        self._under_way: tuple[RollCall, set[str]] | None = None
        self._again_at = 0.0

    def blind(self, survey: Survey) -> list[str] | None:
        """The first to ask waits for it."""
        if self._app is None:
            return None
        with self._lock:
            first = not self._again_at
            if self._under_way is None and time.monotonic() >= self._again_at:
                self._under_way = self._call(survey)
                self._again_at = time.monotonic() + ROLL_CALL_SECONDS
            if self._under_way is not None and (first or self._under_way[0].is_over):
                call, known = self._under_way
                self._heard, self._under_way = blind(survey, call, known), None
            return self._heard

    def _call(self, survey: Survey) -> tuple[RollCall, set[str]]:
        from crisper.celery.rollcall import RollCall

        known = survey.living()
        return RollCall(self._app), known
