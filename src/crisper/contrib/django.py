"""Django's database as Crisper's registry.

    # settings.py
    from crisper.contrib.django import registry_url

    CELERY_CRISPER_REGISTRY_URL = registry_url(DATABASES["default"])

It reads the dict that stands in `DATABASES` and imports nothing of Django, so
settings may call it. Crisper's tables are named `crisper_…`; Django's
migrations leave them alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from crisper.errors import SettingsError

#: By the last part of `ENGINE`, so that wrappers (`django_prometheus.db.backends.mysql`) count too.
_KINDS = {
    "postgresql": "postgresql",
    "postgis": "postgresql",
    "mysql": "mariadb",
    "sqlite3": "sqlite",
    "spatialite": "sqlite",
}

#: The OPTIONS that say which PostgreSQL server it is and how to get in, by libpq's names. The others say
#: how Django uses its connection.
_OF_LIBPQ = (
    "service", "passfile", "hostaddr", "target_session_attrs", "options", "channel_binding", "gssencmode",
    "krbsrvname", "sslmode", "sslnegotiation", "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl",
    "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
)  # fmt: skip

#: The same for MariaDB, by mysqlclient's names: in `OPTIONS["ssl"]`, and for `ssl_mode`.
_TLS_FILES = {"ca": "ssl_ca", "cert": "ssl_cert", "key": "ssl_key"}
_TLS_MODES = {
    "DISABLED": {"ssl": "false"},
    "PREFERRED": {},
    "REQUIRED": {"ssl": "true"},
    "VERIFY_CA": {"ssl": "true", "ssl_check_hostname": "false"},
    "VERIFY_IDENTITY": {"ssl": "true"},
}


def registry_url(database: Mapping[str, Any]) -> str:
    """The `crisper_registry_url` of one of Django's `DATABASES`.

    PostgreSQL (and PostGIS), MariaDB (and `mysql`) and SQLite (and SpatiaLite). On
    MariaDB `ssl_mode` "REQUIRED" becomes stricter: the server's certificate is
    verified. Raises `SettingsError` for any other engine, and for what a URL cannot
    say, with what to write instead.
    """
    engine = str(database.get("ENGINE", ""))
    kind = _KINDS.get(engine.rpartition(".")[2])
    if kind == "postgresql":
        return _postgresql(database)
    if kind == "mariadb":
        return _mariadb(database)
    if kind == "sqlite":
        return _sqlite(database)
    raise SettingsError(
        f"DATABASES: the engine {engine!r} cannot hold Crisper's registry; PostgreSQL, MariaDB and SQLite"
        " can. Set CELERY_CRISPER_REGISTRY_URL to postgresql://…, mariadb://… or sqlite:////path/registry.db"
        " yourself."
    )


def _postgresql(database: Mapping[str, Any]) -> str:
    given = _options(database)
    return _server("postgresql", database, "host", {name: given[name] for name in _OF_LIBPQ if name in given})


def _mariadb(database: Mapping[str, Any]) -> str:
    given = _options(database)
    if "read_default_file" in given:
        raise SettingsError(
            "DATABASES: what read_default_file says is read by MariaDB's own client library only."
            " Set CELERY_CRISPER_REGISTRY_URL to mariadb://user:password@host/database yourself."
        )
    if not database.get("NAME"):
        raise SettingsError("DATABASES: NAME is empty. Say which database of the server it is.")
    mode = str(given.get("ssl_mode") or "PREFERRED").upper()
    if mode not in _TLS_MODES:
        raise SettingsError(f"DATABASES: ssl_mode {mode!r} is unknown; there are {', '.join(_TLS_MODES)}.")
    files: Mapping[str, Any] = given.get("ssl") or {}
    query = _TLS_MODES[mode] | {_TLS_FILES[name]: path for name, path in files.items() if name in _TLS_FILES}
    if "unix_socket" in given:
        query["unix_socket"] = given["unix_socket"]
    return _server("mariadb", database, "unix_socket", query)


def _sqlite(database: Mapping[str, Any]) -> str:
    name = str(database.get("NAME") or "")
    if not name or name.startswith("file:") or ":memory:" in name:
        raise SettingsError(
            f"DATABASES: SQLite's NAME {name!r} is no file that processes can share; write the path of one."
        )
    return f"sqlite:///{quote(str(Path(name).absolute()))}"


def _server(scheme: str, database: Mapping[str, Any], elsewhere: str, query: Mapping[str, Any]) -> str:
    """`elsewhere`: the option for a HOST that is the path of a socket, or that names several servers."""
    host, port = str(database.get("HOST") or ""), str(database.get("PORT") or "")
    options = {name: str(value) for name, value in query.items()}
    if host.startswith("/") or "," in host:
        options[elsewhere], host = host, ""
        if port and scheme == "postgresql":
            options["port"], port = port, ""
    user, password = (quote(str(database.get(name) or ""), safe="") for name in ("USER", "PASSWORD"))
    who = f"{user}:{password}@" if password else f"{user}@" if user else ""
    where = f"[{host}]" if ":" in host else host
    at = f"{who}{where}{':' + port if port else ''}"
    path = quote(str(database.get("NAME") or ""), safe="")
    return f"{scheme}://{at}/{path}" + (f"?{urlencode(options, quote_via=quote)}" if options else "")


def _options(database: Mapping[str, Any]) -> Mapping[str, Any]:
    return database.get("OPTIONS") or {}
