"""One life of a worker: its parent, its recorders one after another, its pool's processes; and the node that
starts the next life when one is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crisper.testing.simulate.more import draw_more
from crisper.testing.simulate.outside import App, Backend
from crisper.testing.simulate.place import Host
from crisper.testing.simulate.plan import SETTINGS, Plan
from crisper.testing.simulate.world import Process, World

if TYPE_CHECKING:
    from crisper.testing.simulate.broker import Broker
    from crisper.testing.simulate.parent import Parent
    from crisper.testing.simulate.recorder import Recorder
    from crisper.testing.simulate.registry import Registry

SCOPE = "scope"


class Site:
    """Everything that lives share."""

    def __init__(self, world: World, plan: Plan, registry: Registry, broker: Broker) -> None:
        self.world, self.plan, self.registry, self.broker = world, plan, registry, broker
        self.backend = Backend()
        self.app = App(self.backend)
        self.nodes: list[Node] = []
        self.more = draw_more(world.seed)

    def lives(self) -> list[Life]:
        return [node.life for node in self.nodes if node.life is not None]


class Life:
    """The truth about one worker process and what belongs to it."""

    def __init__(self, site: Site, node: Node, number: int) -> None:
        self.site, self.node = site, node
        self.host: Host = node.host
        self.name = f"{node.name}-life{number:04d}"  # 16 characters: the end of its incarnations' ids
        self.process: Process = self.host.process(self.name)
        self.pid = self.host.new_pid(self.process)
        self.boot_id = self.host.boot_id
        self.children: list[Process] = []
        self.incarnations: list[str] = []
        self.recorder: Recorder | None = None
        self.parent: Parent | None = None
        self.process.on_death.append(self._died)
        self.said_goodbye = False

    def next_incarnation(self) -> str:
        id = f"{len(self.incarnations) + 1}-{self.name}"
        self.incarnations.append(id)
        self.site.registry.truth[id] = self
        self.site.registry.observers[id] = self.host
        return id

    def incarnation(self) -> dict[str, Any]:
        """The fields of `core.model.Incarnation`."""
        return {
            "id": self.incarnations[-1], "hostname": self.node.name, "scope": SCOPE, "host": self.host.name,
            "boot_id": self.boot_id, "pid_namespace": self.host.name, "pid": self.pid, "pid_start": 1,
            "lease_ms": int(SETTINGS.lease * 1000), "heartbeat_ms": int(SETTINGS.heartbeat_interval * 1000),
            "about": {},
        }  # fmt: skip

    def is_running(self) -> bool:
        return self.process.alive or any(child.alive for child in self.children)

    def trusts(self, incarnation: str) -> bool:
        """Whether it may believe in this incarnation's lease."""
        recorder = self.recorder
        return recorder is not None and recorder.process.alive and recorder.trusts(incarnation)

    def _died(self) -> None:
        """Its pool dies with it (PDEATHSIG); its recorder sees it; the broker sees the connection close."""
        world = self.site.world
        for child in self.children:
            world.kill(child, "dies with its parent")
        if self.recorder is not None:
            world.after(world.soon(), self.recorder.main, self.recorder.parent_died)
        if self.parent is not None:
            self.parent.connection_ends(sees_ms=world.rng.choice((1, 30, 2_500)))
        self.node.life_ended(self)


class Node:
    """Where a worker runs, and what starts it again."""

    def __init__(self, site: Site, name: str, host: Host) -> None:
        self.site, self.name, self.host = site, name, host
        self.life: Life | None = None
        self.started = 0
        self.stays_down = False  # until everything is healed

    def start(self) -> None:
        from crisper.testing.simulate.parent import Parent

        if (self.life is not None and self.life.process.alive) or (
            self.stays_down and not self.site.world.healed
        ):
            return
        self.started += 1
        self.life = Life(self.site, self, self.started)
        self.life.parent = Parent(self.site, self.life)
        self.life.parent.start()

    def life_ended(self, life: Life) -> None:
        world = self.site.world
        if not world.healed and world.rng.random() < 0.2:
            self.stays_down = True
        world.after(world.rng.randrange(300, 4_000), None, self.start)
