"""What the app tells: its settings, its tasks, and where it connects to. No server is asked."""

from __future__ import annotations

import contextlib
import platform
import sqlite3
import types
from collections.abc import Iterator, Mapping
from typing import Any

import celery
from celery import Celery, canvas
from celery.app.task import Task as CeleryTask
from celery.backends.base import DisabledBackend
from celery.backends.redis import RedisBackend

from crisper.celery.doctor import addresses
from crisper.celery.install import check_task
from crisper.engine.doctor.facts import App, Task
from crisper.settings import Settings
from crisper.store.open import is_sqlite

_VERSION = 2


def ask(app: Celery, settings: Settings) -> App:
    """Raises `SettingsError` for a task whose policy makes no sense; `load` goes before."""
    conf = app.conf
    accepts = tuple(conf.accept_content or ())
    backend = _backend(app)
    return App(
        name=app.main,
        installed=bool(getattr(app, "_crisper_installed", False)),
        tasks=tuple(_tasks(app, settings)),
        time_limit=_seconds(conf.task_time_limit) or _seconds(conf.task_soft_time_limit),
        prefetch_multiplier=int(conf.worker_prefetch_multiplier),
        disables_prefetch=bool(conf.get("worker_disable_prefetch")),
        detects_quorum_queues=bool(conf.get("worker_detect_quorum_queues", True)),
        soft_shutdown=_seconds(conf.get("worker_soft_shutdown_timeout")) or 0.0,
        options_beside=bool(set(conf.broker_transport_options or ()) - {"visibility_timeout"}),
        accepts=accepts,
        accepts_results=tuple(conf.result_accept_content or accepts),
        no_chords=_no_chords(backend),
        backend_counts_ignored=backend is None or isinstance(backend, RedisBackend),
        addresses=tuple(addresses.ask(app, settings)),
        celery=_numbers(celery.__version__),
        python=_numbers(platform.python_version()),
        sqlite=sqlite3.sqlite_version_info[:_VERSION] if is_sqlite(settings.registry_url) else (),
    )


def load(app: Celery) -> None:
    """Its tasks, as a worker loads them. Raises whatever its modules do."""
    app.loader.import_default_modules()
    app.finalize(auto=True)


def _backend(app: Celery) -> Any:
    """None if it cannot be made: then nothing is known of it."""
    with contextlib.suppress(Exception):
        return app.backend
    return None


def _no_chords(backend: Any) -> str | None:
    if isinstance(backend, DisabledBackend):
        return "result_backend is not set"
    try:
        if backend is not None:
            backend.ensure_chords_allowed()
    except NotImplementedError:
        return f"{type(backend).__name__} takes no chords"
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:_VERSION] if part.isdigit())


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and value > 0 else None


# -- tasks -------------------------------------------------------------------


def _tasks(app: Celery, settings: Settings) -> Iterator[Task]:
    for name, task in sorted(app.tasks.items()):
        if name.startswith("celery."):
            continue
        check_task(task)
        own: Mapping[str, Any] = getattr(task, "crisper", None) or {}
        on_lost = own.get("on_lost", settings.on_lost)
        yield Task(
            name=name,
            acks_late=bool(task.acks_late),
            reject_on_worker_lost=bool(task.reject_on_worker_lost),
            ignore_result=bool(task.ignore_result),
            time_limit=_own(task.time_limit, app.conf.task_time_limit)
            or _own(task.soft_time_limit, app.conf.task_soft_time_limit),
            on_lost=None if on_lost == "auto" else str(on_lost),
            loss_budget=int(own.get("loss_budget", settings.loss_budget)),
            makes_chords_of=_makes_chords_of(task),
        )


def _own(limit: Any, of_all: Any) -> float | None:
    """In Celery 5.7 a task without a limit of its own has the app's."""
    return None if limit == of_all else _seconds(limit)


def _makes_chords_of(task: CeleryTask) -> tuple[str, ...]:
    """The tasks that its body names, if it also names Celery's chord: read, not run."""
    function = getattr(task, "__wrapped__", None) or task.run
    function = getattr(function, "__func__", function)
    if not isinstance(function, types.FunctionType):
        return ()
    names = function.__code__.co_names
    known = [function.__globals__.get(name) for name in names]
    modules = [one for one in known if isinstance(one, types.ModuleType)]
    here = any(one is canvas.chord for one in known)
    there = "chord" in names and any(getattr(one, "chord", None) is canvas.chord for one in modules)
    imported = {"celery", "chord"} <= {*names}  # by the body itself
    if not (here or there or imported):
        return ()
    return tuple(sorted(name for one in known if (name := _name_of(one))))


def _name_of(one: Any) -> str | None:
    """Of a task, or of the proxy that stands for it before its app is ready."""
    with contextlib.suppress(Exception):
        if isinstance(one, CeleryTask):
            return str(one.name)
    return None
