"""Sweepers outside of any worker, as `crisper serve` is one; one of them carries cases too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crisper.engine.sweeper import Sweeper
from crisper.errors import RegistryUnreachable
from crisper.testing.simulate.life import SCOPE, Site
from crisper.testing.simulate.outside import SimulatedCourier, SlowDesk, View
from crisper.testing.simulate.place import Host, Neighbours
from crisper.testing.simulate.plan import SETTINGS
from crisper.testing.simulate.pulse import CASES, INTERVAL_MS, FolderAdopter, Patient, elected, swept
from crisper.testing.simulate.registry import Line
from crisper.testing.simulate.world import Process, Thread

if TYPE_CHECKING:
    from crisper.testing.simulate.world import World


class Standing:
    """One such process; when it died, it is started again once all is healed."""

    def __init__(self, site: Site, name: str, host: Host, *, carries: bool) -> None:
        self._site, self._name, self._host, self._carries = site, name, host, carries
        self._world: World = site.world
        self.process = Process(name)
        self._start()

    def start_again(self) -> None:
        if not self.process.alive:
            self.process = Process(self._name)
            self._start()

    def _start(self) -> None:
        site, thread = self._site, Thread(self.process, self._name)
        site.registry.observers[self._name] = self._host
        self._thread = thread
        self._store = Line(self._world, site.registry, thread, self._host, site.plan)
        store: object = self._store
        self._sweeper = Sweeper(
            store,  # type: ignore[arg-type]
            self._name,
            lease=SETTINGS.lease,
            host=Patient(self._host, site.registry, self._adopter()),
            clock=self._host.seconds,
        )
        self._elected = elected(self._store, thread, self._host)
        desk = SlowDesk(self._world, thread, self._store, site.plan.pauses)
        view = View(self._world, site.broker, thread, site.plan.publish_trouble)
        self._courier = SimulatedCourier(site.app, SETTINGS, desk, view, name=self._name)
        self._world.after(self._world.rng.randrange(INTERVAL_MS), thread, self._turn)

    def _adopter(self) -> FolderAdopter:
        """Only to look whether a journal is still to be replayed: a worker of its host does that."""
        neighbours = Neighbours(self._host, self._site.registry)
        return FolderAdopter(self._store, self._host, neighbours, self._thread, "")

    def _turn(self) -> None:
        try:
            now = self._host.seconds()
            found = self._sweeper.tick(now)
            swept(self._world, found)
            self._elected.tick(now, leads=found.leads)
            if self._carries:
                self._courier.carry(self._store.take_cases(self._name, SCOPE, limit=CASES))
        except RegistryUnreachable:
            pass
        self._world.after(INTERVAL_MS - self._world.rng.randrange(60), self._thread, self._turn)
