"""From a registry URL to a store. URLs are SQLAlchemy's, which users already write."""

from __future__ import annotations

import contextlib
import importlib.util
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from crisper.errors import SettingsError
from crisper.store.database import Place, Within
from crisper.store.sql import SqlStore

_POSTGRES = ("postgresql", "postgres")
_MARIADB = ("mariadb", "mysql")


def is_sqlite(url: str) -> bool:
    return _scheme(url) == "sqlite"


def _scheme(url: str) -> str:
    return url.partition(":")[0].partition("+")[0]


def is_mariadb(url: str) -> bool:
    return _scheme(url) in _MARIADB


def sqlite_path(url: str) -> Path:
    """The file of `sqlite:///relative` or `sqlite:////absolute`."""
    path = unquote(urlsplit(url.replace("sqlite+pysqlite:", "sqlite:", 1)).path)[1:]
    if not path or path == ":memory:":
        raise SettingsError(
            f"crisper_registry_url {redacted(url)!r} names no file; an in-memory database cannot be"
            " shared by processes. Write sqlite:////absolute/path/registry.db"
        )
    return Path(path)


def driver_url(url: str) -> str:
    """The URL as libpq reads it: without SQLAlchemy's `+driver`."""
    return "postgresql://" + url.partition("://")[2]


#: Greedy on purpose: of an unescaped password nothing may be left, whatever is in it.
_USERINFO = re.compile(r"^([\w+.-]+://[^:@/?#]*):.*@", re.DOTALL)
_IN_QUERY = re.compile(r"([?&][^?&=]*pass[^?&=]*=)[^&]*", re.IGNORECASE)


def redacted(url: str) -> str:
    """The URL without its password, for messages and logs. Takes any text: it may not fail."""
    return _IN_QUERY.sub(r"\1***", _USERINFO.sub(r"\1:***@", url))


def open_store(
    url: str,
    *,
    application_name: str = "crisper",
    within: Within = contextlib.nullcontext,
    place: Place | None = None,
) -> SqlStore:
    """A store over its own connection, opened at the first verb; `within` is entered for each transaction
    that a peer could make hang. With `place`, a connection that leads elsewhere raises `RegistryMoved`.
    """
    if is_sqlite(url):
        from crisper.store.sqlite import open_sqlite

        return open_sqlite(sqlite_path(url))
    if _scheme(url) in _POSTGRES:
        if importlib.util.find_spec("psycopg") is None:
            raise SettingsError("PostgreSQL needs psycopg 3: pip install 'celery-crisper[postgres]'")
        from crisper.store.postgres import open_postgres

        return open_postgres(driver_url(url), application_name, within, place)
    if is_mariadb(url):
        if importlib.util.find_spec("pymysql") is None:
            raise SettingsError("MariaDB needs PyMySQL: pip install 'celery-crisper[mariadb]'")
        from crisper.store.mariadb import open_mariadb

        return open_mariadb(url, within, place)
    raise SettingsError(
        f"crisper_registry_url {redacted(url)!r}: use postgresql://…, mariadb://… or"
        " sqlite:////path/registry.db"
    )
