"""The heartbeat: renews while the parent lives and runs, and believes in its lease for less than that."""

from __future__ import annotations

import pytest

from crisper.engine.heartbeat import Beat, Heartbeat, boottime
from crisper.errors import RegistryUnreachable
from crisper.store.memory import MemoryStore
from tests.store.acting import PULSE, Actor, MemoryRegistry, Registry

LEASE, INTERVAL = 20.0, 4.0
WINDOW = LEASE - INTERVAL - LEASE / 4


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def heartbeat(actor: Actor, clock: Clock, stopped: bool = False) -> Heartbeat:
    return Heartbeat(
        actor.store,
        actor.fence,
        lease=LEASE,
        interval=INTERVAL,
        parent_stopped=lambda: stopped,
        pulse=lambda: PULSE,
        clock=clock,
    )


def test_a_heartbeat_counts_the_lease_up(registry: Registry) -> None:
    actor = registry.joins()
    assert heartbeat(actor, Clock()).tick() is Beat.RENEWED
    assert registry.worker(actor.id).counter == 1


def test_of_a_stopped_parent_the_lease_is_not_renewed(registry: Registry) -> None:
    actor = registry.joins()
    assert heartbeat(actor, Clock(), stopped=True).tick() is Beat.WITHHELD
    assert registry.worker(actor.id).counter == 0


def test_who_was_declared_lost_learns_it_at_the_next_heartbeat(registry: Registry) -> None:
    actor = registry.joins()
    actor.is_declared()
    assert heartbeat(actor, Clock()).tick() is Beat.FENCED


def test_a_replaced_recorder_learns_it_too(registry: Registry) -> None:
    actor = registry.joins()
    registry.store.replace_recorder(actor.fence)
    assert heartbeat(actor, Clock()).tick() is Beat.FENCED


def test_the_lease_is_trusted_for_the_window_and_no_longer(memory_registry: MemoryRegistry) -> None:
    clock = Clock()
    beat = heartbeat(memory_registry.joins(), clock)
    clock.now += 1
    beat.tick()
    clock.now += WINDOW - 0.001
    assert beat.trusted()
    clock.now += 0.001
    assert not beat.trusted()


def test_the_window_counts_from_before_the_renewal_was_sent(memory_registry: MemoryRegistry) -> None:
    """A renewal that took long may have counted at its very beginning."""
    clock = Clock()

    class Slow(MemoryStore):
        def renew(self, fence, pulse):  # type: ignore[no-untyped-def]
            clock.now += 5
            return super().renew(fence, pulse)

    memory_registry.store = Slow()
    beat = heartbeat(memory_registry.joins(), clock)
    beat.tick()
    clock.now += WINDOW - 5
    assert not beat.trusted()


def test_an_outage_does_not_prolong_the_trust(memory_registry: MemoryRegistry) -> None:
    clock = Clock()

    class Away(MemoryStore):
        def renew(self, fence, pulse):  # type: ignore[no-untyped-def]
            raise RegistryUnreachable("it is away")

    memory_registry.store = Away()
    beat = heartbeat(memory_registry.joins(), clock)
    clock.now += WINDOW
    with pytest.raises(RegistryUnreachable):
        beat.tick()
    assert not beat.trusted()


def test_the_clock_of_trust_goes_on() -> None:
    first = boottime()
    assert boottime() >= first > 0


def test_nothing_is_trusted_before_the_first_renewal(memory_registry: MemoryRegistry) -> None:
    """A recorder that takes the fence over has renewed nothing: the lease may have run out before."""
    me = memory_registry.joins()
    beat = Heartbeat(
        memory_registry.store,
        me.fence,
        lease=20,
        interval=4,
        parent_stopped=lambda: False,
        pulse=lambda: PULSE,
    )
    assert not beat.trusted()
    assert beat.tick() is Beat.RENEWED
    assert beat.trusted()
