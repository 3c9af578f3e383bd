"""Where the command line acts itself: sweeping, and carrying out what a person decided."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    from crisper.engine.adoption import Adopter
    from crisper.engine.control import Done
    from crisper.engine.sweeper import Judged, Swept
    from crisper.faces.cli.place import Place
    from crisper.store.base import Store


def carry_out(place: Place, store: Store, decided: Sequence[Done]) -> list[Done]:
    """Carry out what was decided at once, if this app can; else leave it to a live worker of its app."""
    if place.app is None or all(one.recovery is None for one in decided):
        return [_leave(store, one, f"a live worker of its app {_words(one).does}") for one in decided]
    from crisper.celery.courier import Courier
    from crisper.celery.desk import StoreDesk
    from crisper.celery.node import scope_of

    place.app.loader.import_default_modules()
    scope = scope_of(place.app)
    name = f"cli:{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    with closing(Courier(place.app, place.settings, StoreDesk(store), name=name)) as courier:
        return [_send(courier, store, one, scope) for one in decided]


class _Words(NamedTuple):
    done: str
    does: str
    failed: str


def _words(one: Done) -> _Words:
    from crisper.core.states import VerdictKind

    if one.recovery is not None and one.recovery.verdict is VerdictKind.REVOKED:
        return _Words("stopped", "tells its callers", "its callers could not be told now")
    return _Words("sent again", "sends it", "it could not be sent now")


def _leave(store: Store, one: Done, why: str) -> Done:
    """Give the decided recovery free, so that the next courier that looks takes it."""
    if one.recovery is None:
        return one
    store.give_up_case(one.recovery, by="command line", why=why, due_in_ms=0)
    return replace(one, reason=f"decided; {why}")


def _send(courier: Any, store: Store, one: Done, scope: str) -> Done:
    from crisper.engine.control import Outcome

    if one.recovery is None:
        return one
    if one.recovery.scope != scope:
        why = f"it belongs to another app or broker, a live worker of which {_words(one).does}"
        return _leave(store, one, why)
    case = store.case(one.task_id, one.recovery.number)
    if case is None or case.recovery.version != one.recovery.version:
        return replace(one, reason="decided; somebody else carries it out already")
    [done] = courier.carry([case])
    if done.carried_out:
        return replace(one, reason=_words(one).done)
    return replace(
        one,
        outcome=Outcome.UNREACHABLE,
        reason=f"decided, but {_words(one).failed} ({done.reason}); a live worker of its app tries again",
    )


def adopter_of(place: Place, store: Store) -> Adopter:
    from crisper.engine.adoption import Adopter
    from crisper.recorder.host import ThisHost
    from crisper.recorder.journals import registry_digest, replay_clock

    settings = place.settings
    return Adopter(
        store,
        settings.journals,
        registry_digest(settings.registry_url),
        ThisHost(),
        clock=replay_clock,
        lease=settings.lease,
    )


def adopt(adopter: Adopter) -> int:
    """Replay what dead workers of this host left in their journals; how many journals."""
    replayed = 0
    while (adopted := adopter.tick(time.monotonic())) is not None or adopter.is_busy:
        replayed += adopted is not None
    return replayed


@dataclass
class Sweep:
    """What one full sweep did, or would do."""

    alive: int = 0
    declared: list[Judged] = field(default_factory=list)
    closed: int = 0
    braked: bool = False
    journals: int = 0  # of dead workers of this host, replayed before anything was declared

    def add(self, swept: Swept) -> None:
        self.alive, self.braked = swept.alive - len(swept.declared), swept.braked
        self.declared += swept.declared
        self.closed += swept.closed


#: A sweep that the brake holds observes a second full lease; then it has seen what there is to see.
_LEASES = 2.5


def sweep(place: Place, store: Store, *, dry_run: bool, progress: Callable[[float, float], None]) -> Sweep:
    """Observe until every live worker was seen to renew, or its silence is proven.

    `progress` is told the seconds observed so far and those needed at most.
    """
    from crisper.engine.rehearsal import DryHost, DryStore
    from crisper.engine.sweeper import Sweeper
    from crisper.recorder.host import Patient

    adopter = adopter_of(place, store)
    patient = Patient([adopter])
    seen = cast("Store", DryStore(store)) if dry_run else store
    host = DryHost(patient) if dry_run else patient
    me = f"sweep:{socket.gethostname()}:{os.getpid()}"
    sweeper = Sweeper(seen, me, lease=place.settings.lease, host=host, election=False, clock=time.monotonic)
    result = Sweep(journals=0 if dry_run else adopt(adopter))
    renewed, began = set[str](), time.monotonic()
    while True:
        now = time.monotonic()
        swept = sweeper.tick(now)
        result.add(swept)
        renewed |= sweeper.renewing(now)
        left = [worker for worker in seen.alive() if worker.id not in renewed]
        longest = max((worker.lease_ms / 1000 for worker in left), default=0.0)
        observed, whole = now - began, longest * (_LEASES if result.braked else 1.0)
        progress(min(observed, whole), whole)
        if not swept.more and (not left or observed > longest * _LEASES):
            return result
        pause = min(place.settings.sweep_interval, min((w.lease_ms / 1000 for w in left), default=1.0) / 8)
        time.sleep(0 if swept.more else pause)
