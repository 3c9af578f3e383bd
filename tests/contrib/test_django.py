"""Django's database as the registry: the URL leads where Django's own connection leads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from django.db.backends.postgresql.base import DatabaseWrapper
from django.utils.functional import empty
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from crisper.contrib.django import registry_url
from crisper.errors import SettingsError
from crisper.settings import load
from crisper.store import migrate
from crisper.store.mariadb_connect import address_of
from crisper.store.open import open_store, redacted, sqlite_path

PASSWORD = "p@ss/w#rd?&:% ü"
BACKENDS = "django.db.backends."


@pytest.fixture
def configured() -> Iterator[None]:
    """Django with its defaults, for one test."""
    settings.configure()
    yield
    settings._wrapped = empty


def database(engine: str, **more: Any) -> dict[str, Any]:
    """As Django's documentation has it; unset values are empty strings there."""
    return {"ENGINE": engine, "NAME": "shop", "USER": "", "PASSWORD": "", "HOST": "", "PORT": "", **more}


def of(url: str, engine: str) -> dict[str, Any]:
    """The `DATABASES` entry of a test's own database."""
    parts = urlsplit(url)
    user, host, port = parts.username or "", parts.hostname or "", str(parts.port or "")
    return database(BACKENDS + engine, NAME=parts.path[1:], USER=user, HOST=host, PORT=port)


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_a_server_s_database_holds_the_registry_beside_django_s_tables(
    kind: str, request: pytest.FixtureRequest
) -> None:
    fixture = {"postgresql": "postgres_database", "mysql": "mariadb_database"}[kind]
    own = request.getfixturevalue(fixture)
    derived = registry_url(of(own, kind))
    migrate.upgrade(own)
    store = open_store(derived)
    with store.db.write():
        assert store.db.rows("SELECT count(*) FROM crisper_attempt") == [(0,)]
    store.close()


def test_a_sqlite_file_is_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (tmp_path / "my shop?.db", "my shop?.db"):
        derived = registry_url(database(BACKENDS + "sqlite3", NAME=name))
        assert sqlite_path(derived) == tmp_path / "my shop?.db"


@pytest.mark.parametrize(
    "given",
    [
        {"USER": "an@n", "PASSWORD": PASSWORD, "HOST": "db.example", "PORT": 5433},
        {"OPTIONS": {"sslmode": "verify-full", "sslrootcert": "/etc/my ca.pem", "isolation_level": 3}},
        {"OPTIONS": {"options": "-c search_path=jobs", "pool": False, "server_side_binding": True}},
        {"HOST": "/run/pg", "PORT": "5433"},
        {"HOST": "a,b", "PORT": "1,2"},
        {"HOST": "::1"},
        {"NAME": "", "OPTIONS": {"service": "shop"}},
    ],
)
@pytest.mark.usefixtures("configured")
def test_postgresql_is_reached_as_django_reaches_it(given: dict[str, Any]) -> None:
    of_its_connections = {"AUTOCOMMIT": True, "CONN_MAX_AGE": 0, "TIME_ZONE": None}
    entry = database(BACKENDS + "postgresql", **given)
    django = DatabaseWrapper(entry | {"OPTIONS": {}} | given | of_its_connections).get_connection_params()
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()} - {"client_encoding"}
    reached = {name: str(value) for name, value in django.items() if name in known}
    assert conninfo_to_dict(registry_url(entry)) == reached
    assert registry_url(entry | {"ENGINE": "django.contrib.gis.db.backends.postgis"}) == registry_url(entry)


def test_mariadb_is_reached_as_django_reaches_it() -> None:
    options = {"ssl_mode": "VERIFY_CA", "ssl": {"ca": "/etc/ca.pem"}, "charset": "utf8mb4"}
    given = database(
        BACKENDS + "mysql", USER="ann", PASSWORD=PASSWORD, HOST="db", PORT="3307", OPTIONS=options
    )
    host, port, user, password, name, tls = address_of(registry_url(given))
    assert (host, port, user, password, name) == ("db", 3307, "ann", PASSWORD, "shop")
    assert tls == {"ssl": "true", "ssl_check_hostname": "false", "ssl_ca": "/etc/ca.pem"}
    socket = registry_url(database(BACKENDS + "mysql", HOST="/run/mysqld.sock"))
    assert address_of(socket).options == {"unix_socket": "/run/mysqld.sock"}


def test_no_derived_url_shows_its_password_in_a_message() -> None:
    for engine in ("postgresql", "mysql"):
        url = registry_url(database(BACKENDS + engine, USER="ann", PASSWORD=PASSWORD, HOST="db"))
        assert redacted(url).startswith(url.partition(":")[0] + "://ann:***@db")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (database(BACKENDS + "oracle"), "'django.db.backends.oracle' cannot hold Crisper's registry"),
        ({}, "the engine '' cannot hold"),
        (database(BACKENDS + "sqlite3", NAME=":memory:"), "no file that processes can share"),
        (database(BACKENDS + "mysql", OPTIONS={"read_default_file": "/etc/my.cnf"}), "read_default_file"),
        (database(BACKENDS + "mysql", OPTIONS={"ssl_mode": "SOME"}), "ssl_mode 'SOME' is unknown"),
        (database(BACKENDS + "mysql", NAME=""), "NAME is empty"),
    ],
)
def test_what_cannot_be_a_registry_is_refused_with_what_to_write(
    given: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SettingsError, match=sentence):
        registry_url(given)


def test_a_derived_url_passes_the_check_of_settings() -> None:
    url = registry_url(database("django_prometheus.db.backends.postgresql", HOST="db"))
    assert load({"CRISPER_REGISTRY_URL": url}, environ={}).registry_url == url
