"""`crisper.install(app)` and what it does to an app and its clients, without any worker."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from celery import Celery, signals

import crisper
from crisper.celery.install import settings_of
from crisper.errors import SettingsError

HEADER = "crisper_message_id"


def an_app(name: str = "shop", **conf: Any) -> Celery:
    app = Celery(name, broker="memory://", set_as_current=False)
    app.conf.update(conf)
    return app


def counted(app: Celery) -> tuple[int, int, int, int]:
    return (
        len(app.steps["worker"]),
        len(app.steps["consumer"]),
        len(signals.before_task_publish.receivers),
        len(signals.worker_init.receivers),
    )


def test_installing_twice_is_installing_once() -> None:
    app = an_app()
    crisper.install(app)
    once = counted(app)
    crisper.install(app)
    assert counted(app) == once


def test_two_apps_of_one_process_have_settings_of_their_own() -> None:
    one, two, plain = an_app("one"), an_app("two"), an_app("three")
    crisper.install(one)
    crisper.install(two)
    one.conf.crisper_lease, two.conf.crisper_lease = 30, 40
    assert (settings_of(one).lease, settings_of(two).lease) == (30, 40)
    assert not plain.steps["worker"]


def test_settings_may_come_before_or_after_the_installation() -> None:
    before, after = an_app(crisper_lease=30), an_app()
    crisper.install(before)
    crisper.install(after)
    after.conf.update(crisper_lease=30)
    assert settings_of(before) == settings_of(after)


class DjangoSettings:
    CELERY_TASK_ALWAYS_EAGER = True
    CELERY_CRISPER_LEASE = 30
    CELERY_CRISPER_ON_LOST = "hold"
    CRISPER_THEME = "another app's"


@pytest.mark.parametrize(
    "source", [DjangoSettings, {"CELERY_CRISPER_LEASE": 30, "CELERY_CRISPER_ON_LOST": "hold"}]
)
def test_settings_in_django_s_style_are_found(source: Any) -> None:
    app = an_app()
    crisper.install(app)
    app.config_from_object(source, namespace="CELERY")
    assert (settings_of(app).lease, settings_of(app).on_lost) == (30, "hold")


def test_a_misspelt_setting_in_django_s_style_names_the_one_that_was_meant() -> None:
    app = an_app()
    app.config_from_object({"CELERY_CRISPER_LEESE": 30}, namespace="CELERY")
    with pytest.raises(SettingsError, match="Did you mean crisper_lease"):
        settings_of(app)


def test_eager_mode_and_plain_calls_are_as_ever() -> None:
    app = an_app(task_always_eager=True, crisper_registry_url="postgresql://127.0.0.1:1/away")
    crisper.install(app)

    @app.task(shared=False, crisper={"on_lost": "resend"})
    def add(x: int, y: int) -> int:
        mine = crisper.current_attempt()
        mine.progress(1, 2, "adding")
        assert not mine
        assert (mine.number, mine.task_id) == (0, add.request.id)
        return x + y

    assert add(1, 2) == 3
    assert add.delay(1, 2).get() == 3
    assert add.apply((1, 2)).get() == 3


def test_every_publish_carries_a_message_id_of_its_own() -> None:
    app = an_app()
    crisper.install(app)
    published: list[dict[str, Any]] = []

    def see(headers: dict[str, Any], **kwargs: Any) -> None:
        published.append(dict(headers))

    signals.after_task_publish.connect(see)
    try:
        first = app.send_task("shop.charge", task_id="same", headers={"mine": 1})
        app.send_task("shop.charge", task_id="same", headers=published[0])  # as a retry copies them
    finally:
        signals.after_task_publish.disconnect(see)
    assert first.id == "same"
    assert published[0]["mine"] == 1
    assert published[0][HEADER] != published[1][HEADER]


CLIENT = """
import sys
from celery import Celery
import crisper
app = Celery("shop", broker="memory://")
app.conf.crisper_registry_url = "postgresql://127.0.0.1:1/away"
crisper.install(app)

@app.task
def add(x, y):
    return x + y

add.delay(1, 2)
heavy = "sqlalchemy", "alembic", "psycopg", "sqlite3", "rich", "platformdirs"
ours = "crisper.recorder", "crisper.store", "crisper.engine", "crisper.celery.link", "celery.worker.request"
print([name for name in heavy + ours if name in sys.modules])
"""


def test_a_client_that_only_publishes_loads_no_database_and_asks_no_registry() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CLIENT], capture_output=True, text=True, timeout=50, check=True
    )
    assert done.stdout == "[]\n", done.stderr
