"""The faults that a plan names, each a function of the site. A new one is added here and in `plan.FAULTS`."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from crisper.testing.simulate.world import Process

if TYPE_CHECKING:
    from crisper.testing.simulate.life import Life, Node, Site
    from crisper.testing.simulate.place import Host
    from crisper.testing.simulate.sweepers import Standing


class Faults:
    """Breaks things, and mends them."""

    def __init__(self, site: Site, sweepers: list[Standing]) -> None:
        self._site, self._world, self._sweepers = site, site.world, sweepers

    def strike(self, kind: str) -> None:
        if not self._world.healed:
            do: Callable[[], None] = getattr(self, f"_{kind}")
            self._world.history.tell("fault", kind)
            do()

    def _life(self) -> Life | None:
        alive = [life for life in self._site.lives() if life.process.alive]
        return self._world.rng.choice(alive) if alive else None

    def _node(self) -> Node:
        return self._world.rng.choice(self._site.nodes)

    def _long(self, most: int = 9_000) -> int:
        """Some faults are shorter than the trust window, some longer than the lease."""
        return int(self._world.rng.random() ** 2 * most) + 20

    def _pause(self, process: Process | None, ms: int) -> None:
        if process is not None and process.alive:
            self._world.pause(process)
            self._world.after(ms, None, self._world.resume, process)

    # -- workers ---------------------------------------------------------------

    def _kill_parent(self) -> None:
        life = self._life()
        if life is not None:
            self._world.kill(life.process)

    def _kill_recorder(self) -> None:
        life = self._life()
        if life is not None and life.recorder is not None:
            self._world.kill(life.recorder.process)

    def _kill_both(self) -> None:
        life = self._life()
        if life is not None and life.recorder is not None:
            self._world.kill(life.recorder.process)
            self._world.kill(life.process)

    def _lose_host(self) -> None:
        self._node().host.die("is lost with its host")

    def _kill_child(self) -> None:
        life = self._life()
        if life is not None and life.parent is not None:
            life.parent.pool.kill_one()

    def _lose_child_unnoticed(self) -> None:
        """Somebody else in the parent waited for it: its pool is never told."""
        life = self._lifes_choice()
        if life is not None and life.parent is not None:
            life.parent.pool.lose_one_unnoticed(self._more())

    def _hide_processes(self) -> None:
        """A recorder sees none of its worker's processes for a while."""
        life = self._lifes_choice()
        if life is not None and life.recorder is not None:
            life.recorder.blind_until = self._world.now + self._more().randrange(3_000, 8_000)

    def _more(self) -> Random:
        assert self._site.more is not None
        return self._site.more.rng

    def _lifes_choice(self) -> Life | None:
        alive = [life for life in self._site.lives() if life.process.alive]
        return self._more().choice(alive) if alive else None

    def _pause_parent(self) -> None:
        life = self._life()
        self._pause(life.process if life else None, self._long())

    def _pause_recorder(self) -> None:
        life = self._life()
        self._pause(life.recorder.process if life and life.recorder else None, self._long(5_000))

    def _pause_host(self) -> None:
        ms = self._long()
        for process in list(self._node().host.processes):
            self._pause(process, ms)

    def _warm_stop(self) -> None:
        self._stop(cold=False)

    def _cold_stop(self) -> None:
        self._stop(cold=True)

    def _stop(self, *, cold: bool) -> None:
        life = self._life()
        if life is not None and life.parent is not None:
            self._world.after(0, life.parent.loop, lambda: life.parent.shut_down(cold=cold))  # type: ignore[union-attr]

    # -- the registry ----------------------------------------------------------

    def _cut_registry(self) -> None:
        self._cut(self._node().host, self._long())

    def _cut(self, host: Host, ms: int) -> None:
        host.cut = True
        self._world.after(ms, None, lambda: setattr(host, "cut", False))

    def _cut_off(self) -> None:
        """From the registry, and soon from the broker: what it runs by its journal comes to others."""
        life = self._life()
        if life is not None and life.parent is not None:
            self._cut(life.host, self._long())
            self._world.after(self._world.rng.randrange(1_500), None, self._lose_connection, life)

    def _mass_silence(self) -> None:
        for node in self._site.nodes:
            self._cut(node.host, self._world.rng.randrange(4_000, 9_000))

    def _registry_outage(self) -> None:
        self._site.registry.away = True
        self._world.after(self._long(), None, lambda: setattr(self._site.registry, "away", False))

    def _clock_step(self) -> None:
        self._site.registry.step_ms += self._world.rng.choice((-1, 1)) * self._long(30_000)

    def _pause_sweeper(self) -> None:
        self._pause(self._world.rng.choice(self._sweepers).process, self._long())

    # -- the broker ------------------------------------------------------------

    def _broker_outage(self) -> None:
        self._site.broker.go_away()
        self._world.after(self._long(4_000), None, self._site.broker.come_back)

    def _cut_connection(self) -> None:
        life = self._life()
        if life is not None:
            self._lose_connection(life)

    def _lose_connection(self, life: Life) -> None:
        if life.process.alive and life.parent is not None and not life.parent.closing:
            life.parent.loses_connection(restores=self._world.rng.random() < 0.6)

    def _duplicate(self) -> None:
        known = list(self._site.broker.messages.values())
        if known and not self._site.broker.away:
            self._site.broker.publish(self._world.rng.choice(known), "a publisher", copy=True)

    # -- the end ---------------------------------------------------------------

    def heal(self) -> None:
        """Nothing breaks any more, and everything that is down is started."""
        self._world.healed = True
        self._world.history.tell("fault", "all is healed")
        self._site.registry.away = False
        if self._site.broker.away:
            self._site.broker.come_back()
        for node in self._site.nodes:
            node.host.cut = False
            for process in node.host.processes:
                self._world.resume(process)
            self._world.after(self._world.rng.randrange(200), None, node.start)
        for sweeper in self._sweepers:
            self._world.resume(sweeper.process)
            sweeper.start_again()
