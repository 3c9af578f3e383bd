"""Where an app connects to, and as whom: by its URLs. No server is asked."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from celery import Celery

from crisper.engine.doctor.facts import Address
from crisper.settings import Settings
from crisper.store.open import is_mariadb, is_sqlite

_RABBITMQ = ("amqp", "amqps", "pyamqp", "librabbitmq")
#: Whose URLs name a server with accounts.
_SERVERS = ("redis", "rediss", "valkey", "valkeys", "sentinel", "rpc", *_RABBITMQ)

#: Where libpq finds a password or a certificate that the URL does not name.
_LIBPQ_OPTIONS = ("passfile", "service", "sslcert")
_LIBPQ_ENVIRONMENT = ("PGPASSWORD", "PGPASSFILE", "PGSERVICE", "PGSSLCERT")
_LIBPQ_FILES = (".pgpass", ".postgresql/postgresql.crt")


def ask(app: Celery, settings: Settings) -> Iterator[Address]:
    """Certificates say who we are as well as a password does."""
    yield from _of_celery(app)
    if address := _registry(settings.registry_url):
        yield address
    if settings.rabbitmq_management_url:
        parts = urlsplit(settings.rabbitmq_management_url)
        yield _of_rabbitmq("crisper_rabbitmq_management_url", parts.hostname or "", parts)


def _of_celery(app: Celery) -> Iterator[Address]:
    if not _has_certificate(app.conf.broker_use_ssl):
        seen = set()
        for setting in ("broker_url", "broker_read_url", "broker_write_url"):
            for url in _urls(getattr(app.conf, setting)):
                if url not in seen and (address := _address(setting, url)):
                    seen.add(url)
                    yield address
    if not _has_certificate(app.conf.get("redis_backend_use_ssl")):
        for url in _urls(app.conf.result_backend):
            if address := _address("result_backend", url):
                yield address


def _urls(value: Any) -> list[str]:
    """Several brokers are a list, or parted by semicolons."""
    many = value if isinstance(value, (list, tuple)) else str(value or "").split(";")
    return [str(url) for url in many if url]


def _address(setting: str, url: str) -> Address | None:
    try:
        parts = urlsplit(url)
        scheme, host = parts.scheme.partition("+")[0], parts.hostname or ""
    except ValueError:
        return None
    if scheme not in _SERVERS or "+socket" in parts.scheme or not host or "ssl_certfile=" in parts.query:
        return None
    if scheme in _RABBITMQ:
        return _of_rabbitmq(setting, host, parts)
    return Address(setting, host, _is_loopback(host), bool(parts.password))


def _of_rabbitmq(setting: str, host: str, parts: SplitResult) -> Address:
    """Who names nobody is its guest, to kombu and to us."""
    user, password = unquote(parts.username or "guest"), unquote(parts.password or "")
    is_guest = (user, password or "guest") == ("guest", "guest")
    return Address(setting, host, _is_loopback(host), bool(password) or is_guest, is_guest)


# -- the registry ------------------------------------------------------------


def _registry(url: str) -> Address | None:
    """None where that cannot be told: of sockets, and where a certificate or a file may name who we are."""
    try:
        parts = urlsplit(url)
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        host = _far(options.get("host") or unquote(parts.netloc.rpartition("@")[2]))
    except ValueError:
        return None
    has_password = bool(parts.password or options.get("password"))
    if is_sqlite(url) or not host or "unix_socket" in options or "ssl_cert" in options:
        return None
    if not has_password and not is_mariadb(url) and _libpq_may_know(options):
        return None
    return Address("crisper_registry_url", host, _is_loopback(host), has_password)


def _far(hosts: str) -> str:
    """Of several hosts one that is not this one; empty where they are sockets' folders."""
    known = [urlsplit(f"//{host}").hostname or "" for host in hosts.split(",") if not host.startswith("/")]
    return next((host for host in known if host and not _is_loopback(host)), known[0] if known else "")


def _libpq_may_know(options: Mapping[str, str]) -> bool:
    return (
        any(name in options for name in _LIBPQ_OPTIONS)
        or any(os.environ.get(name) for name in _LIBPQ_ENVIRONMENT)
        or any((Path.home() / name).exists() for name in _LIBPQ_FILES)
    )


# -- who is who --------------------------------------------------------------


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _has_certificate(options: Any) -> bool:
    keys = ("certfile", "ssl_certfile")
    return isinstance(options, Mapping) and any(options.get(key) for key in keys)
