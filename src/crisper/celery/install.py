"""`crisper.install(app)`: what is hooked into Celery, and when."""

from __future__ import annotations

import contextlib
import difflib
import socket
import sys
import time
import traceback
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from celery import Celery, bootsteps, signals
from celery.utils.log import get_logger
from kombu.transport.virtual import Channel as VirtualChannel

from crisper.celery import MESSAGE_ID_HEADER
from crisper.errors import SettingsError
from crisper.settings import PREFIX, Settings, load

logger = get_logger(__name__)

#: How long a worker's start waits for its recorder. A registry that cannot be
#: reached is no reason to fail a deploy: deliveries then wait for it.
READY_SECONDS = 5.0


def install(app: Celery) -> None:
    """See `crisper.install`."""
    if getattr(app, "_crisper_installed", False):
        return
    app._crisper_installed = True
    app.steps["worker"].add(RecordingStep)
    app.steps["consumer"].add(ConnectionStep)
    signals.before_task_publish.connect(_name_message, weak=False, dispatch_uid="crisper.name_message")
    _record_publishes(app)
    signals.worker_init.connect(_on_worker_init, weak=False, dispatch_uid="crisper.worker_init")


def _record_publishes(app: Celery) -> None:
    """Where nothing is to be tracked, the first publish finds out and the rest cost nothing more."""
    from crisper.celery import publishing

    publishing.install_on(app, settings_of)


def settings_of(app: Celery) -> Settings:
    """The app's settings, checked. Raises `SettingsError`."""
    given = {}
    app.conf.get("broker_url")  # until something is read from it, the configuration has no namespace
    namespace = str(getattr(app.conf, "prefix", None) or "")
    for layer in reversed(getattr(app.conf, "maps", [])):
        names = {key: _setting_name(str(key), namespace) for key in layer}
        given.update({name: layer[key] for key, name in names.items() if name})
    return load(given)


def _setting_name(key: str, namespace: str) -> str | None:
    """The setting that a key of the configuration names. In a namespace (Django's `CELERY_`) upper-case
    keys without it are somebody else's, as they are for Celery's own settings."""
    name = key.lower()
    if namespace and name.startswith(namespace.lower()):
        name = name[len(namespace) :]
    elif namespace and key != name:
        return None
    return name if name.startswith(PREFIX) else None


def _name_message(headers: dict[str, Any] | None = None, **kwargs: Any) -> None:
    """Every publish is a message of its own, a retry's too, which copies its parent's headers."""
    if headers is not None:
        headers[MESSAGE_ID_HEADER] = uuid.uuid4().hex


def _on_worker_init(sender: Any = None, **kwargs: Any) -> None:
    """Before the pool forks: the sockets must exist, and tasks need their Request classes."""
    if not getattr(sender.app, "_crisper_installed", False):
        return
    try:
        settings = settings_of(sender.app)
        _check_tasks(sender.app)
    except SettingsError as exc:
        _say(str(exc))
        raise SystemExit(exc.exit_code) from None
    if not settings.enabled:
        return
    try:
        sender.crisper = _recording(sender, settings)
    except Exception:
        _say(f"could not start; this worker runs WITHOUT a record of its tasks\n{traceback.format_exc()}")
    else:
        # Called after the consumer has closed its connection, on every kind of shutdown
        # (celery/bootsteps.py, Blueprint.stop); the worker_shutdown signal is not.
        sender.on_stopped = sender.crisper.wrap_stopped(sender.on_stopped)


def _check_tasks(app: Celery) -> None:
    """Raises `SettingsError`. A policy that raises something of its own is no reason to keep no record."""
    for task in app.tasks.values():
        try:
            check_task(task)
        except SettingsError:
            raise
        except Exception:
            _say(f"the policy of task {task.name} cannot be read\n{traceback.format_exc()}")


def _recording(worker: Any, settings: Settings) -> Recording:
    from crisper.celery import request  # only now: a client that publishes has no use for it

    try:
        return Recording(worker, settings)
    except Exception:
        request.use(None)
        raise


def _say(sentence: str) -> None:
    """Celery sets its logging up only after `worker_init`: what is logged before goes nowhere."""
    print(f"crisper: {sentence}", file=sys.stderr, flush=True)


#: `stop_by` is no setting: only a task knows whether it catches the exception of a soft time limit.
_TASK_KEYS = {"on_lost", "loss_budget", "stall_after", "on_stalled", "stop_by"}
_STOP_BY = ("term", "soft")


def check_task(task: Any) -> None:
    """`@app.task(crisper={...})` is checked like any setting."""
    own = getattr(task, "crisper", None)
    if own is None:
        return
    if not isinstance(own, Mapping):
        raise SettingsError(
            f"task {task.name}: crisper={own!r} is not a dict; write"
            ' @app.task(crisper={"on_lost": "resend", "loss_budget": 3})'
        )
    for key in own:
        if key not in _TASK_KEYS:
            near = difflib.get_close_matches(str(key), _TASK_KEYS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            known = ", ".join(sorted(_TASK_KEYS))
            raise SettingsError(f"task {task.name}: crisper={{…}} knows {known}, not {key!r}.{hint}")
    if own.get("stop_by", "term") not in _STOP_BY:
        raise SettingsError(
            f"task {task.name}: crisper={dict(own)!r}: stop_by must be one of {', '.join(_STOP_BY)}"
        )
    try:
        load({PREFIX + key: value for key, value in own.items() if key != "stop_by"}, environ={})
    except SettingsError as exc:
        raise SettingsError(f"task {task.name}: crisper={dict(own)!r}: {exc}") from None


class Recording:
    """All that Crisper runs in one worker's parent."""

    def __init__(self, worker: Any, settings: Settings) -> None:
        from crisper.celery import publishing, request
        from crisper.celery.child import Child
        from crisper.celery.cold_shutdown import ColdShutdown
        from crisper.celery.courier import WorkerCourier
        from crisper.celery.deliveries import Deliveries
        from crisper.celery.desk import WireDesk
        from crisper.celery.link import Link
        from crisper.celery.node import new_incarnation
        from crisper.celery.patience import Patience
        from crisper.celery.reconnecting import outlast_close
        from crisper.celery.silence import Silence
        from crisper.celery.stalls import Stalls
        from crisper.celery.standing import say_if_it_stands
        from crisper.celery.upkeep import Upkeep

        self._say_if_it_stands, self._outlast_close = say_if_it_stands, outlast_close
        self._request, self._publishing, self._new_incarnation = request, publishing, new_incarnation
        self.worker, self.settings = worker, settings
        self.incarnation = new_incarnation(worker, settings)
        self.link = Link(worker.hostname, self._hello)
        self.deliveries = Deliveries(worker, self.link, settings)
        self.deliveries.incarnation = self.incarnation.id
        self.child = Child(self.link, self.deliveries.slots)
        self.cold_shutdown = ColdShutdown(self._wake_loop)
        desk = self.desk = WireDesk(self.link)
        self.courier = WorkerCourier(worker.app, settings, desk, name=worker.hostname)
        self.courier.on_error = self.deliveries.count_error
        self.deliveries.on_cases = self.courier.receive
        self.deliveries.on_unclaimed = self.courier.look_for
        self.deliveries.on_told = desk.told
        self.upkeep = Upkeep(worker.app, settings, desk)
        self.upkeep.on_error = self.deliveries.count_error
        self.deliveries.on_left_behind = self.upkeep.take_back
        self.patience = Patience(worker.app, settings, self.deliveries.held)
        self.patience.on_error = self.deliveries.count_error
        self.deliveries.may_come_back = self.patience.may_come_back
        self.deliveries.on_fatal = self._fatal
        self.deliveries.on_fenced = self._reborn
        self.silence = Silence(worker, self.deliveries, settings)
        self.silence.on_error = self.deliveries.count_error
        self.link.on_new_wire = self._new_wire
        self.stalls = Stalls(worker, self.link, self.deliveries.inside, settings)
        self.deliveries.usual = self.stalls.usual
        self.deliveries.on_begun_inside = self.stalls.begun
        self.link.on_round = self._on_round
        self.link.on_blocked = self._watch_writable
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._read_fd = self._write_fd = -1
        self._timer: Any = None
        self._fatal_code: int | None = None
        self._stopping = False
        request.install_on(worker.app)
        request.use(self.deliveries)
        self.child.connect()
        publishing.use(self.child.note)
        self.link.start()

    def _on_round(self) -> None:
        """Once a second, on the keeper's native thread."""
        ticked_at = self.deliveries.ticked_at
        self._say_if_it_stands(self.worker, self.link, ticked_at, self.settings.wedged_after)
        self.cold_shutdown.hurry()
        with self.deliveries.counted("looking for stalled attempts"):
            self.stalls.look(self.deliveries.held())

    def _hello(self) -> dict[str, Any]:
        from crisper.engine.sign import default_folder

        settings = self.settings
        return {
            "incarnation": asdict(self.incarnation),
            "nodename": self.worker.hostname,
            "registry_url": settings.registry_url,
            "lease": settings.lease,
            "heartbeat": settings.heartbeat_interval,
            "sweep": settings.sweep_interval,
            "preview_bytes": settings.preview_bytes,
            "redact": list(settings.redact),
            "max_message_bytes": settings.max_message_bytes,
            "strict": settings.recording == "strict",
            "journal_dir": str(settings.journals) if settings.on_registry_down == "journal" else "",
            "journal_max_bytes": settings.journal_max_bytes,
            "probe_dir": settings.probe_dir.strip() or default_folder(),
            "failover_window": settings.failover_window,
            "wedged_after": settings.wedged_after,
            "on_wedged": settings.on_wedged,
            "on_silent": settings.on_silent,
            "stack_signal": self.link.stack_signal,
            "children": self._children(),
            "courier": True,
            "look_every": None if settings.track_publish == "off" else settings.redelivery_grace / 3,
            "redelivery_grace": settings.redelivery_grace,
            "loss_budget": settings.loss_budget,
            "retention": settings.retention,
            "starting": not self.deliveries.ready,
        }

    def _children(self) -> list[int]:
        processes = getattr(getattr(getattr(self.worker, "pool", None), "_pool", None), "_pool", None)
        pids = [getattr(process, "pid", None) for process in processes or ()]
        return [pid for pid in pids if pid]

    # -- start ----------------------------------------------------------------

    def await_ready(self) -> None:
        """Give the recorder a moment; a registry that refuses us ends the worker with a sentence."""
        give_up = time.monotonic() + READY_SECONDS
        while time.monotonic() < give_up and not self.deliveries.ready:
            self.deliveries.receive()
            self._stop_if_fatal()
            self.link.wait(0.1)
        self.deliveries.receive()
        self._stop_if_fatal()
        if not self.deliveries.ready:
            logger.error(
                "crisper: the registry has not answered yet; deliveries wait until it does"
                " (check crisper_registry_url and the server)"
            )

    def _fatal(self, sentence: str, code: int) -> None:
        logger.critical("crisper: %s", sentence)
        self._fatal_code = code

    def _stop_if_fatal(self) -> None:
        if self._fatal_code is not None:
            self._stopping = True
            self.link.close()
            raise SystemExit(self._fatal_code)

    def _reborn(self) -> None:
        """Fenced: go on as somebody new."""
        self.incarnation = self._new_incarnation(self.worker, self.settings)
        self.deliveries.incarnation = self.incarnation.id
        self.link.greet(self.deliveries.goes_on)

    # -- the loop -------------------------------------------------------------

    def on_loop(self, hub: Any) -> None:
        """Called for every (re)start of the event loop: it has forgotten its readers."""
        hub.on_tick.add(self.link.flush)
        hub.add_reader(self._wake_read.fileno(), self._woken)
        self._read_fd = self._write_fd = -1
        self._attach(hub)
        self._restart_timer(hub.timer)
        self.cold_shutdown.wrap()

    def _attach(self, hub: Any) -> None:
        """Read from the wire of the recorder that there is now."""
        new = self.link.fileno()
        for fd in {self._read_fd, self._write_fd} - {-1, new}:
            with contextlib.suppress(Exception):
                hub.remove(fd)
        self._write_fd = -1
        if new >= 0:
            hub.add_reader(new, self._readable)
        self._read_fd = new
        self.deliveries.receive()

    def _restart_timer(self, timer: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = timer.call_repeatedly(1.0, self._on_timer)
        timer.call_after(0, self._on_timer)  # that it turns is known at once

    def without_loop(self) -> None:
        self.deliveries.use_dispatcher()
        self._restart_timer(self.worker.timer)

    def _on_timer(self) -> None:
        with self.deliveries.counted("the timer"):
            self.deliveries.on_timer()
            self.upkeep.hold(self._unacknowledged())
            self.silence.ask()

    def _unacknowledged(self) -> list[str]:
        """By kombu's own books, ETA tasks and what Celery itself will never run included."""
        channel = getattr(getattr(self.worker.consumer, "task_consumer", None), "channel", None)
        if not isinstance(channel, VirtualChannel):
            return []
        qos = channel.qos  # what is dirty is acknowledged, and forgotten with the next delivery
        return [tag for tag in tuple(qos._delivered) if tag not in qos._dirty]

    def _readable(self) -> None:
        self.deliveries.receive()
        self._stop_if_fatal()

    def _new_wire(self) -> None:
        """From the keeper's thread: what the old recorder was asked, it does not answer."""
        self.desk.forget()
        self._wake_loop()

    def _wake_loop(self) -> None:
        with contextlib.suppress(OSError):
            self._wake_write.send(b".")

    def _woken(self) -> None:
        with contextlib.suppress(OSError):
            self._wake_read.recv(4096)
        self._attach(self.worker.hub)
        self.worker.hub.call_soon(self.cold_shutdown.woken)

    def _watch_writable(self, blocked: bool) -> None:
        """The wire is full: the loop tells when it has room again."""
        hub, fd = getattr(self.worker, "hub", None), self.link.fileno()
        if hub is None or self._stopping:
            return
        if blocked and self._write_fd != fd:
            hub.add_writer(fd, self.link.flush)
            self._write_fd = fd
        elif not blocked and self._write_fd == fd:
            hub.remove_writer(fd)
            self._write_fd = -1

    # -- connections ----------------------------------------------------------

    def before_connections(self, consumer: Any) -> None:
        """RabbitMQ is told whose each connection is, so that a dead worker's can be found and closed."""
        with self.deliveries.counted("naming connections"):
            if self.worker.app.connection_for_read().transport.driver_name == "py-amqp":
                from crisper.celery.brokers.amqp import named_connection
                from crisper.celery.node import process_of

                consumer.connection_for_read = named_connection(consumer, process_of(self.incarnation.id))

    def new_connection(self, connection: Any) -> None:
        with self.deliveries.counted("taking a new connection"):
            self._outlast_close(connection)
            self.upkeep.start(connection)
            self.deliveries.new_connection()
            self.patience.start(connection)
            self.silence.start(connection)

    # -- the end --------------------------------------------------------------

    def wrap_stopped(self, on_stopped: Any) -> Any:
        def stopped() -> None:
            try:
                on_stopped()
            finally:
                self.stop()

        return stopped

    def settle(self) -> None:
        """The loop has ended, the hub and the connection are still there to acknowledge by."""
        with self.deliveries.counted("acknowledging before the end"):
            self.deliveries.settle_acknowledgements()

    def stop(self) -> None:
        """The consumer has closed: everything unacknowledged is back with the broker."""
        if self._stopping:
            return
        self._stopping = True
        with self.deliveries.counted("saying goodbye"):
            self.courier.stop()
            self.upkeep.stop()
            self.patience.stop()
            self.silence.stop()
            self.deliveries.goodbye()
        self.link.close()
        self.child.disconnect()
        self._publishing.use(None)
        self._request.use(None)


class RecordingStep(bootsteps.StartStopStep):
    """In the worker's blueprint: after the pool, before the consumer."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        self.enabled = getattr(worker, "crisper", None) is not None

    def include_if(self, worker: Any) -> bool:
        return self.enabled

    def start(self, worker: Any) -> None:
        from crisper.celery.pool_guard import PoolGuard

        guard = PoolGuard(worker, worker.crisper.deliveries)
        guard.wrap()
        worker.crisper.deliveries.on_unnoticed = guard.bury
        worker.crisper.deliveries.is_unnoticed = guard.is_unnoticed
        worker.crisper.await_ready()
        if worker.hub is None:
            worker.crisper.without_loop()

    def stop(self, worker: Any) -> None:
        """No goodbye yet: the pool is joined after us, and its outcomes are still to come."""
        worker.crisper.settle()

    terminate = stop

    def register_with_event_loop(self, worker: Any, hub: Any) -> None:
        if self.enabled:
            worker.crisper.on_loop(hub)


class ConnectionStep(bootsteps.StartStopStep):
    """In the consumer's blueprint: every new broker connection starts it again."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        self.recording: Recording | None = getattr(consumer.controller, "crisper", None)
        if self.recording is not None:
            self.recording.before_connections(consumer)

    def include_if(self, consumer: Any) -> bool:
        return self.recording is not None

    def start(self, consumer: Any) -> None:
        if self.recording is not None:
            self.recording.new_connection(consumer.connection)
