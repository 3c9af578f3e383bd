"""Each example is run as it stands: an order comes in, its worker is killed, another packs it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from crisper.faces.shipped.files import Blanks, filled
from tests.examples.shop import EXAMPLES, Shop, shop
from tests.servers import PrivateRedis

FLASK = """
from shop import create_app
answer = create_app().test_client().post("/orders/7")
print(answer.text)
"""

FASTAPI = """
from fastapi.testclient import TestClient
from web import api
print(TestClient(api).post("/orders/7").text)
"""

DJANGO = """
import json, os
os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
import django
django.setup()
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
call_command("migrate", verbosity=0)
visitor = Client(SERVER_NAME="localhost")
task = visitor.post("/orders/7").json()["task"]
visitor.force_login(User.objects.create_superuser("ann"))
print(json.dumps({"task": task, "admin": visitor.get("/admin/shop/order/").text}))
"""


def is_recovered(shop: Shop, task: str) -> None:
    first = shop.worker("first")
    shop.await_attempts(task, (1, "running", "first"))
    first.kill()
    shop.worker("second")
    shop.await_attempts(task, (1, "lost", "first"), (2, "running", "second"))


def test_flask_s_worker_is_killed_and_the_order_is_packed_by_another(
    tmp_path: Path, own_redis: PrivateRedis
) -> None:
    with shop("flask", tmp_path, own_redis.url, app="make_celery") as flask:
        is_recovered(flask, flask.answer(FLASK)["task"])


def test_fastapi_s_worker_is_killed_and_the_order_is_packed_by_another(
    tmp_path: Path, own_redis: PrivateRedis
) -> None:
    with shop("fastapi", tmp_path, own_redis.url, app="tasks") as fastapi:
        is_recovered(fastapi, fastapi.answer(FASTAPI)["task"])


def test_django_s_worker_is_killed_and_the_order_is_packed_by_another(
    tmp_path: Path, own_redis: PrivateRedis
) -> None:
    """On record in Django's own database, and the admin has a link to the task's page."""
    with shop("django", tmp_path, own_redis.url) as django:
        django.registry = django.folder / "db.sqlite3"
        answered = django.answer(DJANGO)
        task = answered["task"]
        assert f'<a href="http://127.0.0.1:8555/task?id={task}">{task}</a>' in answered["admin"]
        is_recovered(django, task)
        assert not django.state.joinpath("crisper", "registry.db").exists()


@pytest.mark.parametrize(("what", "file"), [("kubernetes", "crisper.yaml"), ("compose", "compose.yaml")])
def test_what_runs_the_plain_example_elsewhere_is_as_exported_and_gives_a_task_the_time_it_needs(
    what: str, file: str
) -> None:
    """`cd examples/plain; crisper -A shop export-config WHAT --grace 60` makes it anew."""
    shown = (EXAMPLES / what / file).read_text()
    assert shown == filled(what, Blanks("shop", 60, lease=0))
    longest = re.search(r"sleep\((\d+)\)", (EXAMPLES / "plain" / "shop.py").read_text())
    grace = re.search(r"(?:terminationGracePeriodSeconds|stop_grace_period): (\d+)", shown)
    assert longest
    assert grace
    assert int(grace[1]) > int(longest[1])
