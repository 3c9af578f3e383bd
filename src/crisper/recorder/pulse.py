"""The recorder's second thread and second connection: heartbeat, sweep, the courier's verbs.

It never waits for the writer and the writer never waits for it, so a long sweep
costs no task anything and a burst of tasks costs no lease anything.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from crisper.core.model import Entry, Fence, Look, Order, Published, Sighting, Unclaimed
from crisper.core.model import Pulse as Beating
from crisper.core.states import Saw, State
from crisper.engine.adoption import Adopter
from crisper.engine.circuit import Circuit
from crisper.engine.elected import Elected
from crisper.engine.heartbeat import Beat, Heartbeat
from crisper.engine.pruner import Retention
from crisper.engine.sweeper import Sweeper
from crisper.engine.window import forget_windows
from crisper.errors import RegistryMoved, RegistryUnreachable
from crisper.recorder import wire
from crisper.recorder.asks import Asks
from crisper.recorder.cases import case_to_wire, judgement_from_wire, recovery_from_wire, recovery_to_wire
from crisper.recorder.host import Patient, ThisHost
from crisper.recorder.journals import adoption_told, registry_digest, replay_clock
from crisper.store.base import Store
from crisper.store.cases import CASE_MS

#: Who stops what is stalled, where a setting says so.
BY = "crisper"
#: Cases handed to a courier at a time.
CASES = 50
#: Published messages that wait to be written, at most; written together; looked for at a time.
MOST_PUBLISHED, BATCH, UNCLAIMED = 10_000, 500, 500
#: How often the registry is asked whether replicas follow it.
LOOK_AROUND_SECONDS = 30.0
#: For so long a pass replays journals of the dead, in seconds, before it renews its own lease again.
ADOPT_SECONDS = 0.5


class Stop(NamedTuple):
    """An attempt that a policy stops."""

    task_id: str
    number: int
    reason: str


class PulseThread(threading.Thread):
    """Ticks until stopped. `tell` is called with items for the parent, from this thread; `ticked` says
    when the parent's loop last did.

    Every transaction of its store has a deadline of its own: a sweep may be many.
    """

    def __init__(
        self,
        store: Store,
        fence: Fence,
        hello: dict[str, Any],
        *,
        parent_stopped: Callable[[], bool],
        beating: Callable[[], Beating],
        ticked: Callable[[], int],
        tell: Callable[[tuple[Any, ...]], None],
        circuit: Circuit,
        moved: Callable[[], None] = lambda: None,
        testimony: deque[Sighting] | None = None,
        stops: deque[Stop] | None = None,
    ) -> None:
        super().__init__(name="crisper-pulse", daemon=True)
        self._store, self._fence, self._tell, self._circuit = store, fence, tell, circuit
        self._moved, self._look_around_at = moved, 0.0
        self._scope: str = hello["incarnation"]["scope"]
        self._interval: float = hello["heartbeat"]
        self._sweep_interval: float = hello["sweep"]
        self._wants_cases: bool = hello["courier"]
        self._heartbeat = Heartbeat(
            store,
            fence,
            lease=hello["lease"],
            interval=self._interval,
            parent_stopped=parent_stopped,
            pulse=beating,
        )
        # The windows of the dead first: their journals are younger.
        self._adopters = [
            Adopter(
                store,
                Path(hello["journal_dir"] or os.devnull),
                registry_digest(hello["registry_url"]),
                ThisHost(),
                clock=replay_clock,
                lease=hello["lease"],
                own=fence.incarnation[-16:],
                windows=windows,
            )
            for windows in ((True, False) if hello.get("moved") else (False,))
        ]
        window = hello["failover_window"] if hello["journal_dir"] else 0
        self._window = (Path(hello["journal_dir"]), window) if window else None
        self._sweeper = Sweeper(
            store,
            fence.incarnation,
            lease=hello["lease"],
            host=Patient(self._adopters),
            warn=self._warn,
            clock=time.monotonic,
        )
        self._elected = Elected(store, Retention.of(*hello["retention"]), warn=self._warn)
        self._asks = Asks(self._ask, tell)
        self._in_hand, self._handed_at = 0, 0.0
        self._unheard = False  # cases may have been given to us that we do not know of
        self._stopped, self._hurried = threading.Event(), threading.Event()
        self._unreachable_since: float | None = None
        self._look_every: float | None = hello["look_every"]
        self._grace_ms = int(hello["redelivery_grace"] * 1000)
        self._look_at, self._looking_until = 0.0, 0.0
        self._published: deque[Published] = deque()
        self._testimony = testimony if testimony is not None else deque()
        self._stops = stops if stops is not None else deque()
        self._ticked = ticked
        self._told: tuple[list[Order], int] = [], 0
        self.renewing: frozenset[str] = frozenset()

    def ask(self, item: tuple[Any, ...]) -> None:
        """A courier's verb, `(ask, reference, verb, arguments)`; answered by `told`."""
        self._asks.put(item)

    def published(self, message: Published) -> bool:
        """To be written with the next turn; False if too many wait for that. From any thread."""
        if len(self._published) >= MOST_PUBLISHED:
            return False
        self._published.append(message)
        return True

    def unwritten(self) -> list[Published]:
        """What was published and not written, once this thread has stopped."""
        return list(self._published)

    def stop(self) -> None:
        """On the thread that asks: nothing is asked of us any more."""
        self._stopped.set()
        self._asks.refuse()
        self._asks.nudge()

    def trusted(self) -> bool:
        """Whether this incarnation may still believe in its lease. From any thread."""
        return self._heartbeat.trusted()

    def hurry(self) -> None:
        """Somebody waits for the lease: renew it now. From any thread."""
        self._hurried.set()
        self._asks.nudge()

    def run(self) -> None:
        beat_at = sweep_at = time.monotonic()
        while not self._stopped.is_set():
            now = time.monotonic()
            if now >= beat_at or self._hurried.is_set():
                self._hurried.clear()
                if not self._try_beat():
                    beat_at = time.monotonic() + min(self._interval, self._circuit.trial_failed())
                    self._answer_asks(beat_at)
                    continue
                beat_at = now + self._interval
            if now >= sweep_at:
                self._guarded(self._adopt)
                self._guarded(self._sweep)
                self._guarded(self._pass_orders)
                sweep_at = now + (0 if any(one.is_busy for one in self._adopters) else self._sweep_interval)
            if now >= self._look_around_at:
                self._guarded(self._look_around)
                self._look_around_at = now + LOOK_AROUND_SECONDS
            self._guarded(self._testify)
            self._guarded(self._order_stops)
            self._guarded(self._write_published)
            if self._look_every is not None and now >= self._look_at:
                self._guarded(self._look_for_unclaimed)
                self._look_at = now + self._look_every
            self._answer_asks(min(beat_at, sweep_at))

    # -- one pass of each -----------------------------------------------------

    def _try_beat(self) -> bool:
        """Whether the registry answers: as long as it does not, nothing else asks it."""
        began = self._circuit.now()
        reached = self._guarded(self._beat)
        if not reached:
            return False
        self._circuit.trial_worked(began)
        if self._unreachable_since is not None:
            away = time.monotonic() - self._unreachable_since
            self._warn(f"the registry answers again after {away:.1f} s")
            self._unreachable_since = None
        return True

    def _look_around(self) -> None:
        """Whether replicas follow the registry, and what nobody will need for a failover any more."""
        self._store.look_around()
        if self._window is not None:
            forget_windows(*self._window)

    def _beat(self) -> None:
        if self._heartbeat.tick() is Beat.FENCED:
            self._stopped.set()
            self._tell((wire.FENCED, self._fence.incarnation))

    def _adopt(self) -> None:
        """Journals of the dead come first: what they say may be that nothing was lost."""
        until = time.monotonic() + min(ADOPT_SECONDS, self._interval / 4)
        for adopter in self._adopters:
            while (now := time.monotonic()) < until:
                adopted = adopter.tick(now)
                if adopted is not None:
                    self._warn(adoption_told(adopted))
                elif not adopter.is_busy:
                    break
            if adopter.is_busy:
                return

    def _sweep(self) -> None:
        now = time.monotonic()
        swept = self._sweeper.tick(now)
        self._guarded(lambda: self._elected.tick(now, leads=swept.leads))
        self.renewing = self._sweeper.renewing(now)
        for judged in swept.declared:
            self._warn(f"declared {judged.worker} lost: {judged.how}")
        # A courier that has not come back in that time has lost its cases to others anyway.
        overdue = now - self._handed_at > CASE_MS / 1000
        if self._wants_cases and (self._in_hand == 0 or overdue):
            self._hand_over()

    def _pass_orders(self) -> None:
        """Told again with every sweep until their attempts are closed: the parent need not remember them."""
        orders = self._store.orders(self._fence.incarnation)
        telling = orders, self._ticked()
        if orders and telling != self._told:  # a loop that stands still is told once
            self._tell((wire.ORDERS, [(*order, False) for order in orders]))
        self._told = telling

    def _hand_over(self) -> None:
        again, self._unheard = self._unheard, True  # until there is an answer
        cases = self._store.take_cases(self._fence.incarnation, self._scope, limit=CASES, again=again)
        self._unheard = False
        if cases:
            self._in_hand, self._handed_at = len(cases), time.monotonic()
            self._tell((wire.CASES, [case_to_wire(case) for case in cases]))

    def _testify(self) -> None:
        """What was seen of the worker; it stays until it is on record, or the worker is fenced."""
        seen = list(self._testimony)
        if seen:
            self._store.testify(self._fence, seen)
            for _ in seen:
                self._testimony.popleft()

    def _order_stops(self) -> None:
        """By the attempt that was seen to be stalled: of one that has ended, or is followed by another,
        nothing becomes of it."""
        while self._stops:
            one = self._stops[0]
            saw = Saw(one.number, State.RUNNING)
            self._store.stop(one.task_id, by=BY, reason=one.reason, saw=saw)
            self._stops.popleft()

    def _write_published(self) -> None:
        while self._published:
            batch = [self._published[i] for i in range(min(BATCH, len(self._published)))]
            self._store.publish(batch, due_in_ms=self._grace_ms)
            for _ in batch:
                self._published.popleft()

    def _look_for_unclaimed(self) -> None:
        if not self._wants_cases or time.monotonic() < self._looking_until:
            return
        found = self._store.take_unclaimed(self._scope, limit=UNCLAIMED)
        if found:
            self._looking_until = time.monotonic() + CASE_MS / 1000
            looked_for = [
                Unclaimed(one.message_id, one.queue, one.age_ms, one.missing, one.until) for one in found
            ]
            self._tell((wire.UNCLAIMED, [tuple(one) for one in looked_for]))

    # -- the courier's verbs --------------------------------------------------

    def _answer_asks(self, until: float) -> None:
        while not (self._stopped.is_set() or self._hurried.is_set()):
            left = until - time.monotonic()
            if left <= 0:
                return
            self._guarded(lambda left=left: self._asks.answer_one(left))  # type: ignore[misc]

    def _ask(self, verb: str, arguments: dict[str, Any]) -> Any:
        if verb == "ready":  # the courier has done all its cases
            self._in_hand = 0
            self._hand_over()
            return None
        if verb == "nodes":
            return [worker.hostname for worker in self._store.alive()]
        if verb == "looked":
            return self._looked(**arguments)
        if verb == "left_over":
            return self._store.left_over([Entry(*plain) for plain in arguments["entries"]])
        by = arguments["by"]
        if verb == "decide":
            judgements = [judgement_from_wire(plain) for plain in arguments["judgements"]]
            decided = self._store.decide_all(judgements, by=by)
            return [None if one is None else recovery_to_wire(one) for one in decided]
        if verb == "complete":
            return self._store.complete_all([recovery_from_wire(p) for p in arguments["recoveries"]], by=by)
        return self._store.give_up_case(recovery_from_wire(arguments.pop("recovery")), **arguments)

    def _looked(
        self, looks: list[tuple[Any, ...]], vanished: list[tuple[str, int]], **told: Any
    ) -> list[str]:
        self._looking_until = 0.0
        self._store.look_again([Look(*plain) for plain in looks])
        return self._store.declare_vanished(vanished, **told)

    # -- trouble --------------------------------------------------------------

    def _warn(self, sentence: str) -> None:
        self._tell((wire.LOG, "warning", sentence))

    def _guarded(self, step: Callable[[], None]) -> bool:
        """Our trouble is never the worker's: it is told, once with its cause, and tried again."""
        try:
            step()
        except RegistryMoved:
            self._moved()
            return False
        except RegistryUnreachable as exc:
            if self._unreachable_since is None:
                self._unreachable_since = time.monotonic()
                self._tell((wire.LOG, "error", f"{exc}"))
            return False
        except Exception:
            self._tell((wire.TROUBLE, traceback.format_exc(limit=6)))
            return False
        return True
