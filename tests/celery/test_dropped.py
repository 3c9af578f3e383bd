"""A delivery whose connection was lost before the registry had answered."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from crisper.celery.deliveries import Deliveries
from crisper.celery.held import Held
from crisper.celery.link import Link
from crisper.recorder import wire
from crisper.settings import Settings


@pytest.mark.parametrize("connections", [1, 2])
def test_what_is_granted_after_its_connections_were_lost_is_released(connections: int) -> None:
    """Unreleased it would stay claimed as long as this worker lives, and be parked everywhere else."""
    app = SimpleNamespace(amqp=SimpleNamespace(queues={}))
    worker = SimpleNamespace(app=app, hub=None, blueprint=None, consumer=None, pool=None)
    link = Link("node", dict)
    deliveries = Deliveries(worker, link, Settings(registry_url="sqlite:////nowhere"))
    message = SimpleNamespace(delivery_tag="tag", channel=None, headers={})
    request = SimpleNamespace(
        id="task", task=SimpleNamespace(acks_late=True), acknowledged=False, _message=message
    )
    with link.in_order:
        held = Held(link.number(), request, "message", deliveries.generation)
        deliveries._by_seq[held.seq] = deliveries._asking[held.seq] = held
        deliveries._by_message["message"] = held
    for _ in range(connections):
        deliveries.new_connection()
    deliveries._answer(held.seq, "granted", 1, "")
    [(_, item)] = link._unconfirmed
    assert (item[0], item[3], item[5]) == (wire.FINISH, held.seq, "released")
    assert not deliveries.held()
