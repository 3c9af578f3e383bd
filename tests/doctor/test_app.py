"""What is read from an app, without asking any server."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import celery
import pytest
from celery import Celery, canvas, chord

import crisper
from crisper.celery.doctor.app import ask, load
from crisper.engine.doctor.facts import Address, App, Task
from crisper.errors import SettingsError
from crisper.settings import Settings


def an_app(**conf: Any) -> Celery:
    app = Celery("proj", broker="memory://", set_as_current=False)
    app.conf.update(conf)
    return app


def told(app: Celery) -> App:
    load(app)
    return ask(app, Settings(registry_url="sqlite:////r.db"))


def of_task(app: Celery, **options: Any) -> Task:
    app.task(name="proj.add", shared=False, **options)(by_nothing)
    [task] = [task for task in told(app).tasks if task.name == "proj.add"]
    return task


def test_a_task_s_own_word_and_the_app_s_are_told_apart() -> None:
    assert of_task(an_app()).acks_late is False
    assert of_task(an_app(task_acks_late=True)).acks_late is True
    assert of_task(an_app(task_reject_on_worker_lost=True)).reject_on_worker_lost is True
    assert of_task(an_app(task_ignore_result=True)).ignore_result is True
    assert of_task(an_app(task_time_limit=60)).time_limit is None
    assert of_task(an_app(), soft_time_limit=30).time_limit == 30.0
    assert of_task(an_app(), time_limit=60, soft_time_limit=30).time_limit == 60.0
    assert of_task(an_app(), crisper={"on_lost": "hold", "loss_budget": 9}).on_lost == "hold"
    assert of_task(an_app(), crisper={"on_lost": "hold", "loss_budget": 9}).loss_budget == 9
    assert of_task(an_app()).on_lost is None
    assert told(an_app(task_time_limit=60)).time_limit == 60.0


def test_a_policy_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"crisper=.*on_lost"):
        of_task(an_app(), crisper={"on_lots": "hold"})


def test_installed_is_what_was_installed() -> None:
    app = an_app()
    assert told(app).installed is False
    crisper.install(app)
    assert told(app).installed is True


def by_name() -> None:
    chord([member.s()], member.s())


def by_module() -> None:
    celery.chord([member.s()], member.s())


def by_canvas() -> None:
    canvas.chord([member.s()], member.s())


def by_itself() -> None:
    from celery import chord as _chord  # noqa: F401

    member.s()


def by_nothing() -> None:
    member.s()


def made_of() -> None: ...


member: Any = None


@pytest.mark.parametrize(
    ("body", "makes"),
    [(by_name, True), (by_module, True), (by_canvas, True), (by_itself, True), (by_nothing, False)],
)
def test_a_body_that_makes_a_chord_is_known_by_its_code(
    body: Callable[[], None], makes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = an_app()
    monkeypatch.setitem(globals(), "member", app.task(name="proj.member", shared=False)(made_of))
    app.task(name="proj.start", shared=False)(body)
    start = next(task for task in told(app).tasks if task.name == "proj.start")
    assert start.makes_chords_of == (("proj.member",) if makes else ())


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://redis.example:6379/0", Address("broker_url", "redis.example", False, False)),
        ("redis://:pw@redis.example:6379/0", Address("broker_url", "redis.example", False, True)),
        ("redis://127.0.0.1:6379/0", Address("broker_url", "127.0.0.1", True, False)),
        ("redis://[::1]:6379/0", Address("broker_url", "::1", True, False)),
        ("amqp://rabbit//", Address("broker_url", "rabbit", False, True, is_guest=True)),
        ("amqp://guest:guest@rabbit//", Address("broker_url", "rabbit", False, True, is_guest=True)),
        ("amqp://me:pw@rabbit//", Address("broker_url", "rabbit", False, True)),
        ("redis+socket:///run/redis.sock", None),
        ("filesystem://", None),
        ("rediss://redis.example?ssl_certfile=/c.pem", None),
    ],
)
def test_whether_an_address_asks_for_a_password_is_read_from_it(url: str, address: Address | None) -> None:
    assert told(an_app(broker_url=url)).addresses == ((address,) if address else ())


def test_every_broker_of_several_is_looked_at_and_a_certificate_is_as_good_as_a_password() -> None:
    several = an_app(broker_url="redis://one/0;redis://:pw@two/0", result_backend="redis://three/0")
    assert [address.host for address in told(several).addresses] == ["one", "two", "three"]
    certified = an_app(broker_url="rediss://one/0", broker_use_ssl={"ssl_certfile": "/c.pem"})
    assert told(certified).addresses == ()


REGISTRY = "crisper_registry_url"
PASSWORDS_ELSEWHERE = ("PGPASSWORD", "PGPASSFILE", "PGSERVICE", "PGSSLCERT")


def addresses_of(**settings: Any) -> tuple[Address, ...]:
    app = an_app()
    load(app)
    return ask(app, Settings(**{"registry_url": "sqlite:////r.db", **settings})).addresses


@pytest.fixture
def no_passwords_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The home folder."""
    for name in PASSWORDS_ELSEWHERE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("no_passwords_elsewhere")
@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("postgresql://me@db.example/crisper", Address(REGISTRY, "db.example", False, False)),
        ("postgresql+psycopg://me:pw@db.example/crisper", Address(REGISTRY, "db.example", False, True)),
        ("postgresql://me@db.example/crisper?password=pw", Address(REGISTRY, "db.example", False, True)),
        ("postgresql://me@127.0.0.1/crisper", Address(REGISTRY, "127.0.0.1", True, False)),
        ("postgresql://me@/crisper?host=db.example", Address(REGISTRY, "db.example", False, False)),
        ("postgresql://me@localhost:1,db.example:2/x", Address(REGISTRY, "db.example", False, False)),
        ("mariadb://me@db.example/crisper", Address(REGISTRY, "db.example", False, False)),
        ("mysql+pymysql://me:pw@db.example/crisper", Address(REGISTRY, "db.example", False, True)),
        ("postgresql:///crisper", None),
        ("postgresql://me@%2Frun%2Fpostgresql/crisper", None),
        ("postgresql://me@/crisper?host=/run/postgresql", None),
        ("postgresql://me@db.example/crisper?sslcert=/c.pem", None),
        ("postgresql://me@db.example/crisper?passfile=/p", None),
        ("mariadb://me@db.example/crisper?ssl_cert=/c.pem", None),
        ("mariadb://me@db.example/crisper?unix_socket=/run/m.sock", None),
        ("sqlite:////r.db", None),
    ],
)
def test_whether_the_registry_asks_for_a_password_is_read_too(url: str, address: Address | None) -> None:
    assert addresses_of(registry_url=url) == ((address,) if address else ())


@pytest.mark.parametrize("name", PASSWORDS_ELSEWHERE)
def test_a_password_of_postgresql_may_stand_in_the_environment(
    name: str, no_passwords_elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "something")
    assert addresses_of(registry_url="postgresql://me@db.example/crisper") == ()
    assert len(addresses_of(registry_url="mariadb://me@db.example/crisper")) == 1


@pytest.mark.parametrize("name", [".pgpass", ".postgresql/postgresql.crt"])
def test_a_password_of_postgresql_may_stand_in_the_user_s_files(
    name: str, no_passwords_elsewhere: Path
) -> None:
    (no_passwords_elsewhere / ".postgresql").mkdir()
    (no_passwords_elsewhere / name).touch()
    assert addresses_of(registry_url="postgresql://me@db.example/crisper") == ()


@pytest.mark.parametrize(
    ("url", "loopback", "has_password", "is_guest"),
    [
        ("http://rabbit.example:15672", False, True, True),
        ("http://guest:guest@rabbit.example:15672", False, True, True),
        ("https://me:pw@rabbit.example", False, True, False),
        ("http://guest:guest@localhost:15672", True, True, True),
    ],
)
def test_whether_the_management_api_asks_for_a_password_is_read_too(
    url: str, loopback: bool, has_password: bool, is_guest: bool
) -> None:
    host = "localhost" if loopback else "rabbit.example"
    address = Address("crisper_rabbitmq_management_url", host, loopback, has_password, is_guest)
    assert addresses_of(rabbitmq_management_url=url) == (address,)


def test_options_of_the_broker_beside_the_visibility_timeout_are_noticed() -> None:
    assert told(an_app()).options_beside is False
    assert told(an_app(broker_transport_options={"visibility_timeout": 3})).options_beside is False
    assert told(an_app(broker_transport_options={"master_name": "main"})).options_beside is True


def test_the_library_is_told_where_the_registry_is_a_file_of_it() -> None:
    assert told(an_app()).sqlite == sqlite3.sqlite_version_info[:2]
    assert ask(an_app(), Settings(registry_url="postgresql://me:pw@db/crisper")).sqlite == ()


@pytest.mark.parametrize(
    ("backend", "no_chords", "counts_ignored"),
    [
        (None, "result_backend is not set", False),
        ("rpc://", "RPCBackend takes no chords", False),
        ("redis://localhost/0", None, True),
        ("cache+memory://", None, False),
        ("nowhere://", None, True),  # what cannot be made, nothing is known of
    ],
)
def test_what_a_backend_does_for_chords(
    backend: str | None, no_chords: str | None, counts_ignored: bool
) -> None:
    app = told(an_app(result_backend=backend))
    assert (app.no_chords, app.backend_counts_ignored) == (no_chords, counts_ignored)
