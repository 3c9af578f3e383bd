"""What a courier brings back in a second, against what its process publishes bare, in alternation in one run.

    python bench/resending.py [--messages 2000] [--rounds 5] [--only WORD] [--profile] [--registry sqlite]

Tasks are published by Celery, received and never acknowledged; they are on record as running on a worker that
is lost. The courier takes the recoveries as a worker's does (`recorder.pulse.CASES` at a time), asks the
result backend, commits the verdicts, brings the messages back and puts that on record, with no limit on its
rate. The same bodies, headers and properties are published bare by kombu, over the same kind of connection
with the same confirmations and retries, and as new tasks by Celery's `send_task`. By time, and by the CPU of
the process, which other work on the machine disturbs less. On servers of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import os
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from celery import Celery

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from crisper.celery import MESSAGE_ID_HEADER
from crisper.celery.brokers import broker_of
from crisper.celery.brokers.base import CONFIRM_SECONDS
from crisper.celery.courier import Courier
from crisper.celery.desk import StoreDesk
from crisper.core.message import Kept, pack, unpack
from crisper.core.states import OnLost, VerdictKind
from crisper.recorder.pulse import CASES
from crisper.settings import Settings
from crisper.store.migrate import upgrade
from crisper.store.open import open_store
from tests.servers import PrivatePostgres, PrivateRabbitMQ, PrivateRedis
from tests.store.acting import SCOPE, Actor, start

NAME, QUEUE, BARE = "bench.charge", "lost", "bare"
NO_LIMIT = 1_000_000


class Way(NamedTuple):
    broker: str
    acks_late: bool
    verdict: VerdictKind


WAYS = {
    "Redis, sent again": Way("redis", False, VerdictKind.RESEND),
    "Redis, handed back": Way("redis", True, VerdictKind.HAND_BACK),
    "RabbitMQ, sent again": Way("rabbitmq", False, VerdictKind.RESEND),
}


class Took(NamedTuple):
    """Seconds of the clock, and of the process' CPU."""

    time: float
    cpu: float


@contextlib.contextmanager
def taken(into: list[Took]) -> Iterator[None]:
    began, cpu = time.perf_counter(), time.process_time()
    yield
    into.append(Took(time.perf_counter() - began, time.process_time() - cpu))


class Place:
    """An app, its broker and a registry."""

    def __init__(self, broker: str, backend: str, registry: str) -> None:
        self.app = Celery("bench", broker=broker, backend=backend, set_as_current=False)
        self.app.conf.task_create_missing_queues = True
        self.app.conf.task_default_queue = QUEUE
        if broker.startswith("amqp"):
            self.app.conf.broker_transport_options = {"confirm_publish": True}
        self.app.task(name=NAME)(charge)
        self.registry = registry

    def send(self, count: int, queue: str, took: list[Took]) -> None:
        """Celery's own way."""
        with (
            self.app.connection_for_write() as connection,
            self.app.amqp.Producer(connection) as producer,
            taken(took),
        ):
            for n in range(count):
                self.app.send_task(NAME, (n, "an order"), {"retry": n}, queue=queue, producer=producer)

    def publish(self, messages: list[Kept], took: list[Took]) -> None:
        """As kombu does it."""
        with (
            self.app.connection_for_write() as connection,
            self.app.amqp.Producer(connection, auto_declare=False) as producer,
        ):
            self.queue(BARE, connection)
            with taken(took):
                for one in messages:
                    producer.publish(
                        one.body, exchange="", routing_key=BARE, headers=one.headers,
                        content_type=one.content_type, content_encoding=one.content_encoding,
                        confirm_timeout=CONFIRM_SECONDS, retry=True, **properties(one),
                    )  # fmt: skip

    def queue(self, name: str, connection: Any) -> None:
        """An empty one."""
        queue = self.app.amqp.queues[name](connection.default_channel)
        queue.declare()
        queue.purge()

    def length(self, name: str) -> int:
        with closing(broker_of(self.app, Settings())) as broker:
            waiting = broker.waiting(name)
        return waiting.messages if waiting else 0

    def lose(self, count: int, way: Way) -> list[Kept]:
        """Messages that a worker received, which is lost with its attempts."""
        with self.app.connection_for_read() as connection, closing(open_store(self.registry)) as store:
            self.queue(QUEUE, connection)
            self.send(count, QUEUE, [])
            channel, dead = connection.default_channel, Actor(store, hostname="dead@bench")
            received = [channel.basic_get(QUEUE, no_ack=not way.acks_late) for _ in range(count)]
            if way.acks_late:
                channel.qos.restore_at_shutdown = False
                channel.qos._delivered.clear()
            kept = [kept_of(message) for message in received]
            for first in range(0, count, 500):
                pairs = zip(received[first : first + 500], kept[first : first + 500], strict=True)
                claims = [
                    dead.wants(
                        one.headers["id"], one.headers[MESSAGE_ID_HEADER], name=NAME, queue=QUEUE,
                        tag=str(message.delivery_tag), acks_late=way.acks_late, dispatched=True,
                        on_lost=OnLost.RESEND, message=pack(one, limit=2**20),
                    )
                    for message, one in pairs
                ]  # fmt: skip
                dead.record(*claims, *[start(claim) for claim in claims])
            dead.is_lost()
        return kept

    def carry(self, count: int, way: Way, run: Callable[[Callable[[], Any]], Any], took: list[Took]) -> None:
        """The courier's own way, until all is on record."""
        settings = Settings(recovery_rate=NO_LIMIT)
        with (
            closing(open_store(self.registry)) as store,
            closing(Courier(self.app, settings, StoreDesk(store), name="bench")) as courier,
        ):
            me = Actor(store, hostname="courier@bench").id
            assert courier.broker  # connected, as the publishers are
            done: list[Any] = []

            def carry() -> None:
                while cases := store.take_cases(me, SCOPE, limit=CASES):
                    done.extend(courier.carry(cases))

            with taken(took):
                run(carry)
        assert len(done) == count
        assert {(one.verdict, one.carried_out) for one in done} == {(way.verdict, True)}, done[0]


def charge(*args: Any, **kwargs: Any) -> None:
    """Never run: it is lost."""


def kept_of(message: Any) -> Kept:
    """As a worker's recorder keeps it, with the message id that a publisher with Crisper puts in."""
    headers = {**message.headers, MESSAGE_ID_HEADER: f"m-{message.headers['id']}"}
    return unpack(
        pack(
            Kept(
                message.body, message.content_type, message.content_encoding, headers,
                dict(message.properties), "", QUEUE,
            ),
            limit=2**20,
        )
    )  # fmt: skip


def properties(message: Kept) -> dict[str, Any]:
    not_these = ("headers", "content_type", "content_encoding")
    return {k: v for k, v in message.properties.items() if k not in not_these and v is not None}


def measure(place: Place, way: Way, options: argparse.Namespace) -> list[Took]:
    """Of the courier, of kombu, of Celery."""
    took: list[Took] = []
    count, profile = options.messages, options.profile
    messages = place.lose(count, way)
    assert place.length(QUEUE) == 0
    profiler = cProfile.Profile()
    place.carry(count, way, profiler.runcall if profile else lambda do: do(), took)
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(40)
    assert place.length(QUEUE) == count
    place.publish(messages, took)
    place.send(count, BARE, took)
    assert place.length(BARE) == 2 * count
    return took


@contextlib.contextmanager
def servers(options: argparse.Namespace) -> Iterator[dict[str, Place]]:
    with contextlib.ExitStack() as stack:
        redis, rabbitmq = stack.enter_context(PrivateRedis()), stack.enter_context(PrivateRabbitMQ())
        if options.registry == "sqlite":
            registry = f"sqlite:///{stack.enter_context(tempfile.TemporaryDirectory())}/registry.db"
        else:
            registry = stack.enter_context(PrivatePostgres()).url
        upgrade(registry)
        backend = redis.url.removesuffix("/0") + "/1"
        yield {
            "redis": Place(redis.url, backend, registry),
            "rabbitmq": Place(rabbitmq.url, backend, registry),
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--registry", default="", help="default: a PostgreSQL of its own")
    options = parser.parse_args()
    ways = {name: way for name, way in WAYS.items() if options.only in name}
    with servers(options) as places:
        rounds = [
            {name: measure(places[way.broker], way, options) for name, way in ways.items()}
            for _ in range(options.rounds)
        ]
    print(f"{options.messages} messages, {options.rounds} rounds, {os.cpu_count()} cores; median (range)")
    for name in ways:
        tell(name, [one[name] for one in rounds], options.messages)


def tell(name: str, rounds: list[list[Took]], messages: int) -> None:
    for who, at in (("courier", 0), ("kombu", 1), ("Celery", 2)):
        per_second = spread([messages / one[at].time for one in rounds], 0)
        cpu = spread([one[at].cpu / messages * 1e6 for one in rounds], 0)
        print(f"{name:21} {who:8} {per_second} per second, {cpu} us of CPU each")
    for against, at in (("kombu", 1), ("Celery", 2)):
        by_time = spread([one[at].time / one[0].time for one in rounds], 2)
        by_cpu = spread([one[at].cpu / one[0].cpu for one in rounds], 2)
        print(f"{name:21} against {against}: {by_time} by time, {by_cpu} by CPU")


def spread(figures: list[float], digits: int) -> str:
    low, middle, high = (f"{f(figures):.{digits}f}" for f in (min, statistics.median, max))
    return f"{middle} ({low} to {high})"


if __name__ == "__main__":
    main()
