"""The recorder's second thread, as `crisper.recorder.pulse` turns: heartbeat, adoption, sweep, cases."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crisper.core.model import Fence, Lease, Worker
from crisper.engine.adoption import Adopter, Orphan
from crisper.engine.elected import Elected
from crisper.engine.heartbeat import Beat, Heartbeat
from crisper.engine.journal import Journal
from crisper.engine.pruner import Retention
from crisper.engine.replay import Clock
from crisper.engine.sweeper import Sweeper, Swept
from crisper.errors import RegistryUnreachable
from crisper.store.cases import CASE_MS
from crisper.testing.simulate.place import Host, Neighbours
from crisper.testing.simulate.plan import SETTINGS
from crisper.testing.simulate.world import Thread, World

if TYPE_CHECKING:
    from crisper.testing.simulate.recorder import Recorder

INTERVAL_MS = int(SETTINGS.heartbeat_interval * 1000)
CASES = 50


#: The names are the same in every schedule.
path_of = cache(Path)


class FolderAdopter(Adopter):
    """The real one, over a simulated folder."""

    def __init__(self, store: Any, host: Host, neighbours: Neighbours, thread: Thread, own: str) -> None:
        clock = lambda: Clock(host.ms(), 10**12 + host.ms(), host.boot_id)  # noqa: E731
        super().__init__(
            store, Path("/simulated"), "simulated", neighbours, clock=clock, lease=SETTINGS.lease, own=own
        )
        self._disk, self._thread = host.disk, thread

    def has_more_to_say(self, id: str) -> bool:
        return any(
            name.startswith(id[-16:]) and file.size() and path_of(name) not in self._not_ours
            for name, file in self._disk.files.items()
        )

    def _find(self, now: float) -> Orphan | None:
        for name in list(self._disk.files):
            if not self._is_own(path_of(name)):
                orphan = self._open(path_of(name), now)
                if orphan is not None:
                    return orphan
        return None

    def _open(self, path: Path, now: float) -> Orphan | None:
        file = self._disk.open(path.name, self._thread.process)
        if file is None:
            self._unlocked.pop(path, None)
            return None
        since = self._unlocked.setdefault(path, now)
        journal = Journal(file, most_bytes=0)
        orphan = None
        try:
            orphan = self._adopt(path, journal, now - since)
        finally:
            if orphan is None:
                journal.close()
        return orphan


class Patient(Neighbours):
    """As `crisper.recorder.host.Patient`: what a journal says comes first."""

    def __init__(self, host: Host, registry: Any, adopter: Adopter) -> None:
        super().__init__(host, registry)
        self._adopter = adopter

    def is_gone(self, worker: Worker | Lease) -> bool | None:
        gone = super().is_gone(worker)
        return None if gone and self._adopter.has_more_to_say(worker.id) else gone


def swept(world: World, found: Swept) -> None:
    """What a sweep did that schedules must show sometimes."""
    if found.braked:
        world.history.seen("a brake")
    for judged in found.declared:
        world.history.seen(f"a loss by {judged.how}")


def elected(store: Any, thread: Thread, host: Host) -> Elected:
    """What its sweeper does while it leads; nothing is old enough to be forgotten."""

    def told(sentence: str) -> None:
        world.history.seen("a step of the registry's clock that was mended")
        world.history.tell(thread.name, "mends what waits", why=sentence)

    world = host.world
    return Elected(store, Retention.of(0, 0, 0), warn=told, clock=host.seconds)


class PulseTurns:
    """One fence's heartbeat and sweeps."""

    def __init__(self, recorder: Recorder, fence: Fence) -> None:
        self._recorder, self.world, self.fence = recorder, recorder.world, fence
        self.thread = Thread(recorder.process, f"{recorder.process.name}/pulse")
        host, registry = recorder.host, recorder.site.registry
        self._store = recorder.line(self.thread)
        self.heartbeat = Heartbeat(
            self._store,
            fence,
            lease=SETTINGS.lease,
            interval=SETTINGS.heartbeat_interval,
            parent_stopped=lambda: recorder.life.process.paused,
            pulse=recorder.beating,
            clock=host.seconds,
        )
        own = fence.incarnation[-16:]
        self._adopter = FolderAdopter(self._store, host, Neighbours(host, registry), self.thread, own)
        self._sweeper = Sweeper(
            self._store,
            fence.incarnation,
            lease=SETTINGS.lease,
            host=Patient(host, registry, self._adopter),
            clock=host.seconds,
        )
        self._elected = elected(self._store, self.thread, host)
        self._stopped = False
        self._in_hand, self._handed_at = 0, 0
        self._unheard = False
        self.renewing: frozenset[str] = frozenset()

    def start(self) -> None:
        self.world.after(0, self.thread, self._turn)

    def stop(self) -> None:
        self._stopped = True

    def hurry(self) -> None:
        self.world.after(0, self.thread, self._beat)

    def _turn(self) -> None:
        if self._stopped:
            return
        if not self._beat():
            wait = min(SETTINGS.heartbeat_interval, self._recorder.circuit.trial_failed())
            self.world.after(int(wait * 1000), self.thread, self._turn)
            return
        busy = False
        try:
            busy = self._adopt()
            if not self._stopped:
                self._sweep()
        except RegistryUnreachable:
            pass
        every = 5 if busy else INTERVAL_MS - self.world.rng.randrange(60)
        self.world.after(every, self.thread, self._turn)

    def _beat(self) -> bool:
        if self._stopped:
            return True
        began = self._recorder.circuit.now()
        try:
            beat = self.heartbeat.tick()
        except RegistryUnreachable:
            return False
        self._recorder.circuit.trial_worked(began)
        self._recorder.wake(0)
        if beat is Beat.FENCED and not self._stopped:
            self._stopped = True
            self.world.after(self.world.soon(), self._recorder.main, self._fenced)
        return True

    def _fenced(self) -> None:
        if self._recorder.pulse is self and self._recorder.last is None:
            self._recorder.fenced()

    def _adopt(self) -> bool:
        for _ in range(20):
            adopted = self._adopter.tick(self._recorder.host.seconds())
            if adopted is not None:
                self.world.history.seen("a journal that was adopted")
                self.world.history.tell(self.thread.name, "adopts a journal", of=adopted.worker)
            elif not self._adopter.is_busy:
                return False
        return self._adopter.is_busy

    def _sweep(self) -> None:
        now = self._recorder.host.seconds()
        found = self._sweeper.tick(now)
        swept(self.world, found)
        self._elected.tick(now, leads=found.leads)
        self.renewing = self._sweeper.renewing(now)
        if self._in_hand == 0 or self.world.now - self._handed_at > CASE_MS:
            self._hand_over()

    def _hand_over(self) -> None:
        again, self._unheard = self._unheard, True
        cases = self._store.take_cases(self.fence.incarnation, "scope", limit=CASES, again=again)
        self._unheard = False
        parent = self._recorder.life.parent
        if cases and parent is not None and not self._stopped:
            self._in_hand, self._handed_at = len(cases), self.world.now
            self.world.after(self.world.soon(), parent.courier, parent.carry, cases, self)

    def ready(self) -> None:
        """The courier has done all its cases."""
        if not self._stopped:
            self._in_hand = 0
            try:
                self._hand_over()
            except RegistryUnreachable:
                return
