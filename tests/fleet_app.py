"""The app that test workers run. Tasks append to a ledger, one line for each start and end."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from celery import Celery, Task
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from celery.worker.control import control_command
from celery.worker.strategy import default
from kombu.transport.filesystem import Channel

import crisper
from crisper.celery.brokers.filesystem import put_by_rename


@control_command()
def deafen(state: Any) -> None:
    """The loop turns, and hears no more of the broker's connection, as after a reconnect that went wrong."""
    hub = state.consumer.hub
    hub.on_tick = {one for one in hub.on_tick if one.__module__ != "kombu.transport.redis"}
    for fd in state.consumer.connection.transport.cycle.fds:
        hub.remove(fd)


@control_command()
def forget_consumers(state: Any) -> None:
    """Its consumers are gone from the broker, and nobody has told the worker."""
    consumer = state.consumer.task_consumer
    for tag in consumer._active_tags.values():
        consumer.channel.basic_cancel(tag)


def make(environment: Mapping[str, str]) -> Celery:
    folder = Path(environment["FLEET_FOLDER"])
    broker, backend = environment["FLEET_BROKER"], environment["FLEET_BACKEND"]
    app = Celery("fleet", broker=broker, backend=backend, set_as_current=False)
    app.conf.update(
        broker_connection_retry_on_startup=True,
        task_default_queue=environment.get("FLEET_QUEUE", "celery"),
        worker_prefetch_multiplier=int(environment.get("FLEET_PREFETCH", "4")),
        worker_soft_shutdown_timeout=float(environment.get("FLEET_SOFT", "0")),
        result_expires=3600,
        accept_content=environment.get("FLEET_ACCEPT", "json").split(","),
        worker_pool_restarts=bool(environment.get("FLEET_RESTARTS")),
    )
    if broker.startswith("filesystem"):
        Channel._put = put_by_rename  # a message half written would end the worker that reads it
        queue = str(folder / "queue")
        app.conf.broker_transport_options = {
            "data_folder_in": queue,
            "data_folder_out": queue,
            "control_folder": str(folder / "control"),
            "polling_interval": 0.1,
        }
    if "FLEET_VISIBILITY" in environment:
        app.conf.broker_transport_options = {"visibility_timeout": int(environment["FLEET_VISIBILITY"])}
    app.conf.update(json.loads(environment.get("FLEET_CONF", "{}")))
    if not environment.get("FLEET_PLAIN"):
        app.conf.crisper_registry_url = environment["CRISPER_REGISTRY_URL"]
        app.conf.crisper_journal_dir = environment["CRISPER_JOURNAL_DIR"]
        crisper.install(app)
    _tasks(app, folder / "ledger")
    if "FLEET_POLICY" in environment:
        app.task(shared=False, name="own_policy", crisper=json.loads(environment["FLEET_POLICY"]))(_nothing)
    for forgotten in environment.get("FLEET_WITHOUT", "").split():
        del app.tasks[f"tests.fleet_app.{forgotten}"]
    return app


def _nothing() -> None: ...


@control_command(args=[("until", str), ("locked", bool)])
def wedge(state: Any, until: str, locked: bool = False) -> None:
    """Keeps the worker's loop until the test makes the file of that name; `locked`: and the interpreter lock,
    for eight seconds."""
    if locked:
        ctypes.PyDLL(None).usleep(8_000_000)
    while not (Path(os.environ["FLEET_FOLDER"]) / until).exists():
        time.sleep(0.02)


def noting_strategy(task: Task, app: Celery, consumer: Any, **options: Any) -> Any:
    """Somebody's own way to take messages in: it notes each, and goes on as Celery does."""
    handle = default(task, app, consumer, **options)

    def take(message: Any, *args: Any, **kwargs: Any) -> Any:
        with (Path(os.environ["FLEET_FOLDER"]) / "strategy").open("a") as file:
            file.write(json.dumps({"task": message.headers["task"]}) + "\n")
        return handle(message, *args, **kwargs)

    return take


def _tasks(app: Celery, ledger: Path) -> None:
    def write(event: str, task: Task, key: Any) -> None:
        name = task.name.rpartition(".")[2]
        line = f"{event} {name} {key} {task.request.id} {os.getpid()} {time.time():.6f}\n"
        with ledger.open("a") as file:
            file.write(line)

    @contextlib.contextmanager
    def entry(task: Task, key: Any) -> Iterator[None]:
        write("start", task, key)
        try:
            yield
        except BaseException:
            write("broken_off", task, key)
            raise
        write("end", task, key)

    class Telling(Task):  # type: ignore[misc]
        """Writes down that Celery has stored the result, too: from then on the body must not run again."""

        def on_success(self, retval: Any, *args: Any) -> None:
            write("stored", self, self.request.group or "-")

    if os.environ.get("FLEET_TELLS_STORED"):
        app.task = partial(app.task, base=Telling)

    def register(function: Any, **options: Any) -> None:
        app.task(bind=True, shared=False, name=f"tests.fleet_app.{function.__name__}", **options)(function)

    def spend(seconds: float | str) -> None:
        """Sleep; or, given a name, until the test makes the file of that name."""
        if not isinstance(seconds, str):
            time.sleep(seconds)
            return
        while not (ledger.parent / seconds).exists():
            time.sleep(0.02)

    def sleeper(name: str, **options: Any) -> None:
        def body(self: Task, key: Any = 0, seconds: float | str = 1.0) -> Any:
            with entry(self, key):
                spend(seconds)
            return key

        body.__name__ = name
        register(body, **options)

    sleeper("late", acks_late=True)
    sleeper("own_strategy", acks_late=True, Strategy="tests.fleet_app:noting_strategy")
    sleeper("soft", acks_late=True, crisper={"stop_by": "soft"})
    sleeper("limited", acks_late=True, rate_limit="20/s")
    sleeper("early")
    sleeper("early_resend", crisper={"on_lost": "resend"})
    sleeper("early_hold", crisper={"on_lost": "hold"})
    sleeper("late_hold", acks_late=True, crisper={"on_lost": "hold"})
    sleeper("late_fail", acks_late=True, crisper={"on_lost": "fail"})

    def poison(self: Task, key: Any = 0) -> None:
        """Kills its pool process; gives up once the file `cured` exists."""
        with entry(self, key):
            if not (ledger.parent / "cured").exists():
                os.kill(os.getpid(), signal.SIGKILL)

    def poison_worker(self: Task, key: Any = 0, seconds: float | str = 0) -> None:
        """Kills its worker's parent; gives up once the file `cured` exists."""
        with entry(self, key):
            if not (ledger.parent / "cured").exists():
                spend(seconds)
                os.kill(os.getppid(), signal.SIGKILL)
                time.sleep(60)

    def lock(self: Task, key: Any, seconds: float) -> None:
        """Holds the interpreter lock all the time, as a C extension that does not give it back."""
        with entry(self, key):
            ctypes.PyDLL(None).usleep(int(seconds * 1e6))

    def lock_until(self: Task, key: Any, pipe: str) -> None:
        """Holds it until the test writes into the pipe of that name, whatever signals come."""
        with entry(self, key):
            fd = os.open(ledger.parent / pipe, os.O_RDWR)
            ctypes.PyDLL(None).read(fd, ctypes.create_string_buffer(1), 1)
            os.close(fd)

    def eats(self: Task, key: Any, megabytes: int) -> None:
        """So much memory, page by page."""
        with entry(self, key):
            meal = [b"x" * 2**20 for _ in range(megabytes)]
            assert len(meal) == megabytes

    def counts(self: Task, key: Any, until: str) -> Any:
        """Says how far it is, far too often, and once more when the test has made the file of that name."""
        with entry(self, key):
            for done in range(10_000):
                crisper.current_attempt().progress(done, 20_000, f"row {key}")
            crisper.current_attempt().progress(20_000, 20_000, f"waits for {until}")
            safe = crisper.current_attempt().checkpoint(key, durable=True)
            spend(until)
            self.update_state(state="PROGRESS", meta={"current": 3, "total": 7})
            spend(f"{until}-again")
        return [key, safe]

    def documents(self: Task, key: Any, count: int, durable: bool = False) -> Any:
        """Reads documents, and goes on where the attempt before it was; how it was told so is its result."""
        mine = crisper.current_attempt()
        begun, safe = mine.last_checkpoint or {"read": 0}, ""
        with entry(self, key):
            for number in range(begun["read"], count):
                write("document", self, number)
                time.sleep(0.005)
                safe = mine.checkpoint({"read": number + 1, "password": "hunter2"}, durable=durable)
                mine.progress(number + 1, count)
        return [mine.number, safe]

    def noop(self: Task, key: Any = 0) -> Any:
        return key

    def nap(self: Task, seconds: float) -> None:
        time.sleep(seconds)

    def spins(self: Task, key: Any, seconds: float) -> None:
        """Computes, in Python."""
        until = time.monotonic() + seconds
        with entry(self, key):
            while time.monotonic() < until:
                sum(range(1000))

    def gives_in(self: Task, key: Any) -> str:
        """Ends when it is told to, by the exception of a soft time limit."""
        with entry(self, key):
            try:
                spend("never")
            except SoftTimeLimitExceeded:
                return "tidied up"
            return "ran to its end"

    def advances(self: Task, key: Any, seconds: float) -> None:
        """Says how far it is, all the time."""
        until, done = time.monotonic() + seconds, 0
        with entry(self, key):
            while time.monotonic() < until:
                done += 1
                crisper.current_attempt().progress(done)
                time.sleep(0.1)

    def boom(self: Task, key: Any = 0, seconds: float | str = 0) -> None:
        with entry(self, key):
            spend(seconds)
            raise ValueError(f"boom {key}")

    def retry_once(self: Task, key: Any = 0) -> Any:
        with entry(self, key):
            if self.request.retries == 0:
                raise self.retry(countdown=0)
            return key

    def measure(self: Task, value: str) -> None:
        with entry(self, len(value)):
            pass

    def forward(self: Task, queue: str, value: str) -> None:
        """Publishes another task from inside."""
        self.app.tasks["tests.fleet_app.measure"].apply_async((value,), queue=queue)

    def retry_always(self: Task, key: Any = 0) -> None:
        with entry(self, key):
            raise self.retry(countdown=0)

    def told_to_end(self: Task, key: Any, how: str) -> Any:
        """Told to end by SIGTERM, it does nothing (`never`), or ends its body at once (`soon`)."""
        told: list[int] = []
        before = signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
        with entry(self, key):
            while not (told and how == "soon"):
                time.sleep(0.02)
        signal.signal(signal.SIGTERM, before)
        return key

    def retry_after(self: Task, key: Any, until: str) -> Any:
        """Retries once, when the test has made the file of that name."""
        with entry(self, key):
            if self.request.retries == 0:
                spend(until)
                raise self.retry(countdown=0)
        return key

    def total(self: Task, values: list[Any]) -> Any:
        with entry(self, "total"):
            return sum(values)

    def reject_once(self: Task, key: Any = 0) -> Any:
        with entry(self, key):
            if not self.request.delivery_info.get("redelivered"):
                raise Reject("not now", requeue=True)
            return key

    def reject_always(self: Task, key: Any = 0) -> None:
        with entry(self, key):
            raise Reject("never", requeue=False)

    def ignored(self: Task, key: Any = 0, seconds: float | str = 0) -> None:
        with entry(self, key):
            spend(seconds)
            raise Ignore

    def dies_once(self: Task, key: Any, how: str) -> Any:
        """Ends its pool process the first time: by `_exit` or by `sys.exit`."""
        died = ledger.parent / f"died-{self.request.id}"
        with entry(self, key):
            if not died.exists():
                died.touch()
                (os._exit if how == "_exit" else sys.exit)(3)
        return key

    def remember(self: Task, *args: Any) -> None:
        """For links and errbacks: of which result, or of which task, they ran."""
        with entry(self, args[0] if args else "remember"):
            pass

    register(poison, acks_late=True)
    app.task(
        bind=True, shared=False, name="tests.fleet_app.poison_rejecting", acks_late=True,
        reject_on_worker_lost=True,
    )(poison)  # fmt: skip
    register(poison_worker, acks_late=True)
    register(lock, acks_late=True)
    register(lock_until, acks_late=True)
    register(noop, acks_late=True)
    register(counts, acks_late=True)
    register(documents, acks_late=True)
    register(nap, acks_late=True)
    register(eats, acks_late=True)
    register(spins, acks_late=True)
    register(gives_in, crisper={"stop_by": "soft"})
    register(advances, acks_late=True)
    register(boom, acks_late=True)
    register(retry_once, acks_late=True)
    register(retry_always, acks_late=True, max_retries=None)
    register(told_to_end, acks_late=True)
    register(retry_after, acks_late=True)
    register(reject_once, acks_late=True)
    register(reject_always, acks_late=True)
    register(ignored, acks_late=True)
    register(dies_once, acks_late=True)
    register(measure, acks_late=True)
    register(forward, acks_late=True)
    register(total, acks_late=True)
    register(remember, acks_late=True)


def _wait_for_others_children(folder: Path) -> None:
    """As a careless library in the worker's parent: it waits for a process that is the pool's, and that is
    killed. It keeps the interpreter lock meanwhile, so that the pool cannot be faster."""
    victim, libc = folder / "victim", ctypes.PyDLL(None)
    while not victim.exists():
        time.sleep(0.01)
    pid = int(victim.read_text())
    libc.kill(pid, int(signal.SIGKILL))
    if libc.waitpid(pid, None, 0) == pid:
        (folder / "taken").touch()


if "FLEET_TAKES_CHILDREN" in os.environ:
    threading.Thread(
        target=_wait_for_others_children, args=(Path(os.environ["FLEET_FOLDER"]),), daemon=True
    ).start()
if "FLEET_SWITCH_SECONDS" in os.environ:  # threads that switch often show what they do to each other
    sys.setswitchinterval(float(os.environ["FLEET_SWITCH_SECONDS"]))
if "FLEET_FOLDER" in os.environ:
    app = make(os.environ)
    app.set_current()
    app.set_default()
