"""What the parent does beside its deliveries: carrying cases, keeping what it holds, its shutdown."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from crisper.celery.held import Stage
from crisper.celery.upkeep import Upkeep, keep_every
from crisper.core.model import Case
from crisper.core.states import State
from crisper.errors import RegistryUnreachable
from crisper.testing.simulate.broker import Away, Connection, Consumer
from crisper.testing.simulate.outside import SimulatedCourier, SlowDesk, View
from crisper.testing.simulate.plan import SETTINGS
from crisper.testing.simulate.registry import Line

if TYPE_CHECKING:
    from crisper.testing.simulate.held import Held
    from crisper.testing.simulate.life import Life, Site
    from crisper.testing.simulate.link import Link
    from crisper.testing.simulate.place import Host
    from crisper.testing.simulate.pool import Pool
    from crisper.testing.simulate.pulse import PulseTurns
    from crisper.testing.simulate.world import Process, Thread, World


class Errands(Consumer):
    """Mixed into the parent; the threads are its own."""

    site: Site
    life: Life
    world: World
    host: Host
    process: Process
    loop: Thread
    courier: Thread
    upkeep: Thread
    link: Link
    pool: Pool
    connection: Connection
    generation: int
    held: dict[int, Held]
    closing: bool
    cold: bool
    ticked: int
    _carrier: SimulatedCourier | None = None
    _upkeep: Upkeep | None = None

    # -- the courier -----------------------------------------------------------

    def _view(self, thread: Thread) -> View:
        return View(self.world, self.site.broker, thread, self.site.plan.publish_trouble)

    def _line(self, thread: Thread) -> Any:
        return Line(self.world, self.site.registry, thread, self.host, self.site.plan)

    def carry(self, cases: Sequence[Case], turns: PulseTurns) -> None:
        if self._carrier is None:
            desk = SlowDesk(self.world, self.courier, self._line(self.courier), self.site.plan.pauses)
            self._carrier = SimulatedCourier(
                self.site.app, SETTINGS, desk, self._view(self.courier), name=self.life.incarnations[-1]
            )
        self._carrier.name = self.life.incarnations[-1]
        with contextlib.suppress(RegistryUnreachable):
            self._carrier.carry(cases)
        self.world.after(self.world.soon(), turns.thread, turns.ready)

    # -- the upkeep ------------------------------------------------------------

    def start_upkeep(self) -> None:
        if self.site.broker.kind == "redis":
            self._upkeep = Upkeep(self.site.app, SETTINGS, SlowDesk(
                self.world, self.upkeep, self._line(self.upkeep), 0.0))  # fmt: skip
            self._upkeep._broker = self._view(self.upkeep)
            self.world.after(10, self.upkeep, self._keep_turn)

    def _keep_turn(self) -> None:
        upkeep = self._upkeep
        view: Any = None if upkeep is None else upkeep._broker
        if upkeep is None or view is None or self.closing:
            return
        period = keep_every(SETTINGS, view)
        try:
            upkeep._take_back(view)
            view.keep(upkeep._held)
            upkeep._clear_out(view, period)
        except (Away, RegistryUnreachable):
            period = 0.3
        self.world.after(int(period * 1000), self.upkeep, self._keep_turn)

    def leave_behind(self) -> None:
        """What was received on the connection that is lost; whatever comes of it, the gate decides."""
        if self._upkeep is not None:
            left = {
                one.delivery.tag: one.delivery.received_at / 1000
                for one in self.held.values()
                if not one.acknowledged
            }
            self._upkeep.take_back(left)

    # -- the clock -------------------------------------------------------------

    def _tick(self) -> None:
        """Once a second: what waited long enough."""
        self.ticked = self.host.ms()
        if not self.connection.open:
            self._reconnect()
        now = self.world.now
        for held in list(self.held.values()):
            if held.stage is Stage.ASKED and now - held.asked_at > SETTINGS.lease * 1000:
                held.wants_to_run |= held.has_slot
                held.has_slot = False
                self.put_back_now(held)
            elif held.put_back_at is not None and now >= held.put_back_at:
                held.put_back_at = None
                self.put_back_now(held)
        if self._upkeep is not None:
            self._upkeep.hold([one.delivery.tag for one in self._unacknowledged()])
        self.message_waits()
        self.pump()
        self.world.after(1_000, self.loop, self._tick)

    def _unacknowledged(self) -> list[Held]:
        """By kombu's own books: of this connection."""
        held = [*self.held.values(), *self.pool.running_held()]
        return [one for one in held if not one.acknowledged and one.generation == self.generation]

    # -- the shutdown ----------------------------------------------------------

    def shut_down(self, *, cold: bool) -> None:
        """No more messages; what runs ends, or is ended."""
        if self.closing:
            return
        self.world.history.tell(self.life.name, "shuts down", cold=cold)
        self.closing, self.cold = True, cold
        if cold:
            for held in self.pool.running_held():
                if held.acks_late and not held.muted:
                    held.finish_seq = held.finish_seq or -1  # Celery cancels it: released below
            self.pool.kill_all()
        self.world.after(30, self.loop, self._wait_for_pool, 0)

    def _wait_for_pool(self, waited: int) -> None:
        if self.pool.running() and waited < 100:
            self.world.after(100, self.loop, self._wait_for_pool, waited + 1)
            return
        if self in self.site.broker.consumers:
            self.site.broker.consumers.remove(self)
        self.site.broker.close(self.connection, restores=True)
        self._goodbye()

    def _goodbye(self) -> None:
        for held in list(self.held.values()):
            if held.muted:
                continue
            if held.stage is Stage.DISPATCHED and not held.acks_late and held.accepted:
                self.lose(held, counted=False)
            elif held.is_open:
                self.finish(held, State.RELEASED, self.host.ms())
        self.link.send(["bye", 0, "shutdown"])
        self.link.flush()
        self.world.after(3_000, self.loop, self.leave)

    def leave(self) -> None:
        """The recorder goes on by itself, if it has to."""
        if self.closing:
            self.world.kill(self.process, "has shut down")

    if TYPE_CHECKING:

        def put_back_now(self, held: Held) -> None: ...
        def pump(self) -> None: ...
        def finish(self, held: Held, state: State, at: int) -> None: ...
        def lose(self, held: Held, *, counted: bool) -> None: ...
        def _reconnect(self) -> None: ...
