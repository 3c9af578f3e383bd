"""A worker that dies between any two steps: nothing is lost, nothing that finished runs again.

One fleet per broker serves all of its tests, because starting workers is what costs time: each
test has two workers ready that run the same code, and the one that comes to the step first dies.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.conftest import broker_urls
from tests.acceptance.watching import is_known_to_have_ended
from tests.fleet import Fleet, Worker, wait_for

STEPS = (
    "received",
    "claim_sent",
    "claimed",
    "granted",
    "dispatched",
    "begun",
    "accepted",
    "body_done",
    "outcome_sent",
    "outcome_written",
    "acknowledged",
)
#: Nothing of the message is on record yet, or may be.
NOT_ON_RECORD = {("received", "alone"), ("received", "both"), ("claim_sent", "both")}
RECOVERY_STEPS = ("recovery_taken", "recovery_committed", "recovery_published", "recovery_completed")


class Crew:
    """Workers of one fleet, any of which may die in a test and is replaced for the next."""

    def __init__(self, fleet: Fleet, *arguments: str) -> None:
        self.fleet, self._arguments, self._started = fleet, arguments, 0
        self.alive: list[Worker] = []

    def muster(self, count: int = 2) -> list[Worker]:
        """So many workers, ready."""
        self.alive = [worker for worker in self.alive if worker.process.poll() is None]
        for _ in range(count - len(self.alive)):
            self._started += 1
            arguments = ("--include", "tests.fleet_crash", *self._arguments)
            self.alive.append(self.fleet.worker(f"w{self._started}", *arguments, wait=False))
        return [worker.ready() for worker in self.alive]

    def dies_at(self, step: str, who: str) -> None:
        (self.fleet.folder / "crashed").unlink(missing_ok=True)
        (self.fleet.folder / f"crash-at-{step}").write_text(who)

    def one_died(self) -> Worker:
        dead = wait_for(
            "a worker dies", lambda: [worker for worker in self.alive if worker.process.poll() is not None]
        )
        assert len(dead) == 1
        self.alive.remove(dead[0])
        return dead[0]


@pytest.fixture(scope="module")
def crew(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    urls = (
        {"broker": request.getfixturevalue("rabbitmq_url")}
        if request.param == "rabbitmq"
        else broker_urls(request.param, request)
    )
    fleet = Fleet(tmp_path_factory.mktemp(request.param), **urls)
    yield Crew(fleet)
    fleet.close()


@pytest.fixture(scope="module", params=["filesystem", "redis"])
def tracking(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    """Workers and a publisher whose messages are on record from when they are published."""
    settings = {"track_publish": "async", "redelivery_grace": 2, "heartbeat_interval": 1}
    urls = broker_urls(request.param, request)
    fleet = Fleet(tmp_path_factory.mktemp(request.param), **urls, **settings)
    fleet.app.conf.update({f"crisper_{name}": value for name, value in settings.items()})
    yield Crew(fleet)
    fleet.close()


@pytest.fixture(scope="module", params=["filesystem", "redis"])
def couriers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    """Workers that carry recoveries out, and take none of the messages."""
    fleet = Fleet(tmp_path_factory.mktemp(request.param), **broker_urls(request.param, request))
    yield Crew(fleet, "-Q", "idle")
    fleet.close()


def settled(fleet: Fleet, id: str) -> None:
    """The task came to its end, on record too, and no attempt is left open."""
    wait_for("it came to its end", lambda: fleet.ends(id))
    wait_for("that is on record", lambda: is_known_to_have_ended(fleet, id))
    wait_for("no attempt is left open", lambda: fleet.open_attempts() == 0)


#: In the claim's commit, before dispatch, before the acknowledgement: always. The rest by `make slow`.
ALWAYS = {("redis", step, "alone") for step in ("claim_sent", "claimed", "outcome_written")}
#: RabbitMQ itself brings back, and at once, what a dead connection held.
DEATHS = [
    pytest.param(broker, step, who, marks=() if (broker, step, who) in ALWAYS else pytest.mark.slow)
    for broker in ("filesystem", "redis", "rabbitmq")
    for step in STEPS
    for who in ("alone", "both")
    if broker == "rabbitmq" or (step, who) not in NOT_ON_RECORD
]


@pytest.mark.parametrize(("crew", "step", "who"), DEATHS, indirect=["crew"])
def test_a_task_whose_worker_dies_at_any_step_ends_exactly_once(crew: Crew, step: str, who: str) -> None:
    _ends_exactly_once(crew, step, who)


@pytest.mark.slow
@pytest.mark.parametrize(("step", "who"), sorted(NOT_ON_RECORD))
def test_what_no_claim_names_yet_ends_exactly_once_by_the_record_of_its_publishing(
    tracking: Crew, step: str, who: str
) -> None:
    _ends_exactly_once(tracking, step, who)


def _ends_exactly_once(crew: Crew, step: str, who: str) -> None:
    fleet = crew.fleet
    crew.muster()
    crew.dies_at(step, who)
    # One at a time: what Redis hands to a connection whose worker dies before it reads it is found by
    # the record of its publishing only, and that is another law.
    sent = fleet.send("late", step, 0.3).id
    crew.one_died()
    settled(fleet, sent)
    assert fleet.run_twice() == []
    assert fleet.errors() == []


@pytest.mark.slow
@pytest.mark.parametrize("step", RECOVERY_STEPS)
def test_a_task_whose_courier_dies_at_any_step_ends_exactly_once(couriers: Crew, step: str) -> None:
    fleet = couriers.fleet
    couriers.muster(1)
    first = fleet.worker(f"first-{step}")
    sent = fleet.send("late", step, 1).id
    wait_for("on record", lambda: fleet.attempts(sent) == [(1, "running")])
    couriers.dies_at(step, "both")
    first.kill()
    couriers.one_died()
    second = fleet.worker(f"second-{step}")
    settled(fleet, sent)
    assert fleet.attempts(sent) == [(1, "lost"), (2, "succeeded")]
    assert [state for _, state, _ in fleet.recoveries(sent)] == ["done"]
    assert fleet.run_twice() == []
    assert fleet.errors() == []
    assert second.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize("couriers", ["filesystem"], indirect=True)
def test_tasks_whose_courier_dies_between_their_messages_end_exactly_once(couriers: Crew) -> None:
    fleet = couriers.fleet
    couriers.muster(1)
    first = fleet.worker("first-of-batch")
    sent = [fleet.send("late", f"batch-{key}", 1).id for key in range(2)]
    wait_for("on record", lambda: all(fleet.attempts(id) == [(1, "running")] for id in sent))
    couriers.dies_at("one_of_a_batch_published", "both")
    first.kill()
    couriers.one_died()
    second = fleet.worker("second-of-batch")
    for id in sent:
        settled(fleet, id)
        assert fleet.attempts(id) == [(1, "lost"), (2, "succeeded")]
    assert fleet.run_twice() == []
    assert fleet.errors() == []
    assert second.stop() == 0
