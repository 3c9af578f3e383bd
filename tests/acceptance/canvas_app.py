"""The fleet's app with more to draw a canvas with: as a worker's `-A`, and in the test's own process."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import Celery, Task, chord
from celery.backends.redis import RedisBackend
from kombu import Exchange, Queue
from kombu.common import Broadcast

NAME = "tests.acceptance.canvas_app."
#: Queues of one topic exchange, none named as the messages are routed; the last is given all of them.
JOBS = Exchange("jobs", type="topic")
TOPICS = (
    Queue("work", JOBS, routing_key="job.#"),
    Queue("bills", JOBS, routing_key="bill.*"),
    Queue("audit", JOBS, routing_key="#"),
)

#: How the tasks acknowledge, and what is done with one that is lost.
WAYS: dict[str, dict[str, Any]] = {
    "early": {"acks_late": False},
    "late": {"acks_late": True},
    "resent": {"acks_late": False, "crisper": {"on_lost": "resend"}},
}


def draw_on(app: Celery, folder: Path) -> None:
    """Register the tasks."""
    app.conf.task_queues = [Queue("celery"), *TOPICS, Broadcast("news")]

    def register(function: Any, **options: Any) -> None:
        app.task(bind=True, shared=False, name=NAME + function.__name__, **options)(function)

    def spend(name: str) -> None:
        if name and not (folder / name).exists():
            with (folder / "waiting").open("a") as file:
                file.write(".")  # one body has come as far as it can
        while name and not (folder / name).exists():
            time.sleep(0.02)

    def write(event: str, task: Task) -> None:
        name = task.name.rpartition(".")[2]
        line = f"{event} {name} - {task.request.id} {os.getpid()} {time.time():.6f}\n"
        with (folder / "ledger").open("a") as file:
            file.write(line)

    def delivered(self: Task, until: str = "") -> dict[str, Any]:
        """What the task is told of its message."""
        write("start", self)
        spend(until)
        write("end", self)
        info = self.request.delivery_info
        return {
            "stamps": self.request.stamps,
            "priority": info.get("priority"),
            "tenant": (self.request.headers or {}).get("tenant"),
            "timelimit": list(self.request.timelimit),
        }

    def add_up(self: Task, values: list[Any], until: str = "") -> Any:
        write("start", self)
        spend(until)
        write("end", self)
        return sum(values)

    def waits(self: Task, value: Any, until: str = "open") -> Any:
        """Of one argument, as `map` wants it; under a map it has no id, and is not in the ledger."""
        if self.request.id:
            write("start", self)
        spend(until)
        if self.request.id:
            write("end", self)
        return value

    def swap(self: Task, value: Any, until: str = "open", way: str = "late") -> Any:
        raise self.replace(app.tasks[f"{NAME}{way}_waits"].s(value, until))

    def swap_for_a_chord(self: Task, values: list[Any], way: str = "late") -> Any:
        waits = app.tasks[f"{NAME}{way}_waits"]
        add_up = app.tasks[f"{NAME}{way}_add_up"]
        raise self.replace(chord([waits.s(value) for value in values], add_up.s()))

    def in_three_ways(function: Any) -> None:
        name = function.__name__
        for way, options in WAYS.items():
            function.__name__ = f"{way}_{name}"
            register(function, **options)

    for function in (delivered, add_up, waits, swap, swap_for_a_chord):
        in_three_ways(function)


def let_go_of_results(app: Celery) -> None:
    """Results that outlive their backend would still unsubscribe from it, and wait for it to come back."""
    app.backend.result_consumer._pubsub = None


def die_uncounted(folder: Path) -> None:
    """Where the test leaves a file `die-uncounted`, the process dies between storing a result and
    counting it in its chord."""
    count = RedisBackend.on_chord_part_return

    def die_or_count(self: RedisBackend, *args: Any, **kwargs: Any) -> Any:
        try:
            os.rename(folder / "die-uncounted", folder / "died")  # noqa: PTH104  (atomic: once only)
        except FileNotFoundError:
            return count(self, *args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    RedisBackend.on_chord_part_return = die_or_count


def die_with_the_body(folder: Path) -> None:
    """Where the test leaves a file `die-with-the-body`, the process dies once it has claimed to send a
    chord's body (Celery 5.7)."""
    send = RedisBackend._chord_publish_claim_expires

    def die_or_send(self: RedisBackend, *args: Any, **kwargs: Any) -> Any:
        try:
            os.rename(folder / "die-with-the-body", folder / "died")  # noqa: PTH104
        except FileNotFoundError:
            return send(self, *args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    RedisBackend._chord_publish_claim_expires = die_or_send


if "FLEET_FOLDER" in os.environ:
    from tests.fleet_app import app

    die_uncounted(Path(os.environ["FLEET_FOLDER"]))
    if hasattr(RedisBackend, "_chord_publish_claim_expires"):
        die_with_the_body(Path(os.environ["FLEET_FOLDER"]))
    draw_on(app, Path(os.environ["FLEET_FOLDER"]))
