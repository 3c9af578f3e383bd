"""Every registry is served alike."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from crisper.store import totals
from tests.faces.scene import Scene
from tests.serve.conftest import Served


@pytest.fixture(params=["postgres", "mariadb"])
def served_by_a_server(request: pytest.FixtureRequest, serve: Any) -> Any:
    with closing(Scene(request.getfixturevalue(f"{request.param}_database"))) as scene:
        yield scene, serve(scene.url)


def test_pages_api_and_metrics_answer(served_by_a_server: tuple[Scene, Served]) -> None:
    scene, served = served_by_a_server
    browser = served.browser()
    held = scene.ids["held"]
    for path in ("/", "/workers", "/tasks?name=shop.*", f"/task?id={held}", f"/search?q={held[:12]}"):
        assert browser.get(path).status_code in (200, 303), path
    for path in ("status", "workers", "tasks?state=held", "events", f"tasks/{held}"):
        assert browser.get(f"/api/v1/{path}").status_code == 200, path
    assert totals.follow(scene.store, lag_ms=-60_000) > 0
    text = served.stranger().get("/metrics").text
    assert "crisper_registry_up 1" in text
    assert 'crisper_verdicts_total{verdict="hold"} 3' in text
    assert served.stranger().get("/readyz").status_code == 200


def test_a_decision_holds_for_what_was_seen(served_by_a_server: tuple[Scene, Served]) -> None:
    scene, served = served_by_a_server
    browser, place = served.browser(), f"/api/v1/discard/{scene.ids['held']}"
    assert browser.post(place, json={"attempt": 1, "state": "quarantined"}).status_code == 409
    assert browser.post(place, json={"attempt": 1, "state": "held"}).status_code == 200
    assert browser.post(place, json={"attempt": 1, "state": "held"}).status_code == 409
