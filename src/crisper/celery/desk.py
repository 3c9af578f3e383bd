"""Where a courier gets its decisions on record: the far end of the wire, or the registry itself."""

from __future__ import annotations

import itertools
import queue
import time
from collections.abc import Sequence
from typing import Any, Protocol

from crisper.celery.link import Link
from crisper.core.model import Entry, Look, Recovery
from crisper.core.verdict import Judgement
from crisper.errors import RegistryUnreachable
from crisper.recorder import wire
from crisper.recorder.cases import judgement_to_wire, recovery_from_wire, recovery_to_wire
from crisper.store.base import Store

#: How long the courier waits for the registry's answer over the wire, in seconds.
ANSWER_SECONDS = 30.0
#: What is to be on record is said again while the registry is away: first after so many seconds, then
#: later and later; and for less than a courier has its case to itself (`store.cases.CASE_MS`).
SAY_AGAIN, SAY_AGAIN_MOST, INSIST_SECONDS = 0.1, 2.0, 45.0


class Desk(Protocol):
    """All raise `RegistryUnreachable`."""

    def decide(self, judgements: Sequence[Judgement], *, by: str) -> list[Recovery | None]:
        """Commit the verdicts together; None for one that somebody else decided."""

    def complete(self, recoveries: Sequence[Recovery], *, by: str) -> None:
        """These were carried out."""

    def left_over(self, entries: Sequence[Entry]) -> list[bool]:
        """See `Store.left_over`."""

    def nodes(self) -> list[str]:
        """Names of the worker nodes that keep a record."""

    def looked(self, looks: Sequence[Look], vanished: Sequence[tuple[str, int]], **told: Any) -> None:
        """See `Store.look_again` and `Store.declare_vanished`, told `by`, `evidence` and `due_in_ms`."""

    def give_up_case(self, recovery: Recovery, *, by: str, why: str, due_in_ms: int) -> bool:
        """This one could not be: it is taken again, not before `due_in_ms`."""


class WireDesk:
    """The recorder's pulse thread, at the far end of the wire."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._references = itertools.count(1)
        self._answers: dict[int, queue.Queue[tuple[bool, Any]]] = {}

    def told(self, item: tuple[Any, ...]) -> None:
        """An answer arrived. On the loop's thread."""
        _, reference, ok, result = item
        waiting = self._answers.pop(reference, None)
        if waiting is not None:
            waiting.put((ok, result))

    def forget(self) -> None:
        """Another recorder has taken the place of the one that was asked. From any thread."""
        for reference in list(self._answers):
            waiting = self._answers.pop(reference, None)
            if waiting is not None:
                waiting.put((False, "another recorder has taken the place of the one that was asked"))

    def ask(self, verb: str, **arguments: Any) -> Any:
        """From the courier's thread. Raises `RegistryUnreachable` without an answer in time."""
        reference = next(self._references)
        box: queue.Queue[tuple[bool, Any]] = queue.Queue(1)
        self._answers[reference] = box
        self._link.send((wire.ASK, reference, verb, arguments))
        self._link.flush()
        try:
            ok, result = box.get(timeout=ANSWER_SECONDS)
        except queue.Empty:
            raise RegistryUnreachable(f"no answer to {verb!r} in {ANSWER_SECONDS:g} s") from None
        finally:
            self._answers.pop(reference, None)
        if not ok:
            raise RegistryUnreachable(str(result))
        return result

    def insist(self, verb: str, **arguments: Any) -> Any:
        """Ask again as long as there is no answer: these verbs tell what they did before."""
        give_up, pause = time.monotonic() + INSIST_SECONDS, SAY_AGAIN
        while True:
            try:
                return self.ask(verb, **arguments)
            except RegistryUnreachable:
                if time.monotonic() + pause > give_up:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, SAY_AGAIN_MOST)

    def decide(self, judgements: Sequence[Judgement], *, by: str) -> list[Recovery | None]:
        if not judgements:
            return []
        decided = self.insist("decide", judgements=[judgement_to_wire(one) for one in judgements], by=by)
        return [None if one is None else recovery_from_wire(one) for one in decided]

    def complete(self, recoveries: Sequence[Recovery], *, by: str) -> None:
        if recoveries:
            self.insist("complete", recoveries=[recovery_to_wire(one) for one in recoveries], by=by)

    def left_over(self, entries: Sequence[Entry]) -> list[bool]:
        return list(self.ask("left_over", entries=[tuple(entry) for entry in entries]))

    def nodes(self) -> list[str]:
        return list(self.ask("nodes"))

    def looked(self, looks: Sequence[Look], vanished: Sequence[tuple[str, int]], **told: Any) -> None:
        self.ask("looked", looks=[tuple(look) for look in looks], vanished=list(vanished), **told)

    def give_up_case(self, recovery: Recovery, *, by: str, why: str, due_in_ms: int) -> bool:
        plain = recovery_to_wire(recovery)
        return bool(self.insist("give_up", recovery=plain, by=by, why=why, due_in_ms=due_in_ms))


class StoreDesk:
    """The registry itself, for couriers that are no worker."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def decide(self, judgements: Sequence[Judgement], *, by: str) -> list[Recovery | None]:
        return self._store.decide_all(judgements, by=by)

    def complete(self, recoveries: Sequence[Recovery], *, by: str) -> None:
        self._store.complete_all(recoveries, by=by)

    def left_over(self, entries: Sequence[Entry]) -> list[bool]:
        return self._store.left_over(entries)

    def nodes(self) -> list[str]:
        return [worker.hostname for worker in self._store.alive()]

    def looked(self, looks: Sequence[Look], vanished: Sequence[tuple[str, int]], **told: Any) -> None:
        self._store.look_again(looks)
        self._store.declare_vanished(vanished, **told)

    def give_up_case(self, recovery: Recovery, *, by: str, why: str, due_in_ms: int) -> bool:
        return self._store.give_up_case(recovery, by=by, why=why, due_in_ms=due_in_ms)
