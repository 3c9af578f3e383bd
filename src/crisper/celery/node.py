"""Who this worker is: its incarnation, and the scope in which its tasks can be recovered."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
from typing import Any
from urllib.parse import urlsplit

import celery
import kombu
from celery import Celery

from crisper import __version__
from crisper.core.model import Incarnation
from crisper.engine.pruner import RETENTION
from crisper.recorder.witness import boot_id, pid_namespace, process_start
from crisper.settings import Settings


def scope_of(app: Celery) -> str:
    """A digest of where the app's messages and results live: broker, prefix, backend, app name.

    A courier carries out recoveries of its own scope only: elsewhere it would
    publish to the wrong broker or ask the wrong backend.
    """
    with app.connection_for_write() as connection:
        broker = (
            connection.transport_cls,
            connection.hostname,
            connection.port,
            connection.virtual_host,
            str((connection.transport_options or {}).get("global_keyprefix", "")),
        )
    backend = urlsplit(str(app.conf.result_backend or ""))
    results = (backend.scheme, backend.hostname, backend.port, backend.path)
    return _digest((broker, results, app.main))


def process_of(incarnation: str) -> str:
    """What the incarnations of one process share: a digest of host boot, pid namespace, pid and its start."""
    return incarnation[-16:]


def _digest(values: object) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


def new_incarnation(worker: Any, settings: Settings) -> Incarnation:
    """One life of this worker node, from now on."""
    pid = os.getpid()
    process = (boot_id(), pid_namespace(), pid, process_start(pid) or 0)
    return Incarnation(
        id=secrets.token_hex(8) + _digest(process),
        hostname=worker.hostname,
        scope=scope_of(worker.app),
        host=socket.gethostname(),
        boot_id=process[0],
        pid_namespace=process[1],
        pid=pid,
        pid_start=process[3],
        lease_ms=int(settings.lease * 1000),
        heartbeat_ms=int(settings.heartbeat_interval * 1000),
        about=_about(worker, settings),
    )


def _about(worker: Any, settings: Settings) -> dict[str, Any]:
    pool = worker.pool_cls
    return {
        "app": worker.app.main,
        "pool": getattr(pool, "__module__", str(pool)).rpartition(".")[2],
        "concurrency": worker.concurrency,
        "queues": sorted(worker.app.amqp.queues.consume_from),
        "crisper": __version__,
        "celery": celery.__version__,
        "kombu": kombu.__version__,
        RETENTION: list(settings.retention),
    }
