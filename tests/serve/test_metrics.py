"""Metrics and health: one source, durable totals, and the truth when the registry is away."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from typing import Any

from crisper.core.states import VerdictKind
from crisper.faces.serve.metrics import METRICS, _lines
from crisper.store import totals
from crisper.store.base import Old
from crisper.store.open import open_store
from tests.faces.scene import Scene
from tests.serve.conftest import Served
from tests.store.acting import TOO_LARGE

LINE = re.compile(r'(crisper_\w+)(?:\{(\w+)="((?:[^"\\\n]|\\[\\"n])*)"\})? (\d+(?:\.\d+)?)')
DOCS = Path(__file__).resolve().parents[2] / "docs"


def scraped(served: Served) -> dict[tuple[str, str], float]:
    answer = served.stranger().get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    found = [LINE.fullmatch(line) for line in lines]
    assert all(found), lines
    return {(one[1], one[3] or ""): float(one[4]) for one in found if one}


def test_the_reference_has_every_metric_as_it_is_and_no_other() -> None:
    rows = [
        f"| `{one.name}` | {one.kind} | {f'`{one.label}`' if one.label else '-'} | {one.about} |"
        for one in METRICS
    ]
    page = (DOCS / "reference" / "metrics.md").read_text()
    assert [line for line in page.splitlines() if line.startswith("| `crisper_")] == rows, "\n".join(rows)


def test_names_follow_the_rules_of_prometheus() -> None:
    for one in METRICS:
        assert one.name.startswith("crisper_")
        assert one.name.endswith("_total") is (one.kind == "counter")
        assert one.label not in ("task_id", "task", "worker")


def test_gauges_say_what_status_says(served: Served) -> None:
    status, found = served.browser().get("/api/v1/status").json(), scraped(served)
    for state in ("alive", "suspect", "lost", "gone"):
        assert found["crisper_workers", state] == status["workers"][state]
    for state in ("quarantined", "held"):
        assert found["crisper_tasks_waiting", state] == status["tasks"][state]
    assert found["crisper_attempts_open", "running"] == status["attempts"]["running"]
    assert found["crisper_registry_up", ""] == 1
    under_way = status["sweeper"]["recoveries_under_way"]
    assert found["crisper_recoveries_under_way", ""] == under_way > 0


def test_what_could_not_be_sent_again_is_counted(served: Served, scene: Scene) -> None:
    assert scraped(served)["crisper_attempts_unkept", ""] == 0
    scene.one.runs("large", "m", message=TOO_LARGE)
    assert scraped(served)["crisper_attempts_unkept", ""] == 1


def test_every_metric_is_scraped(served: Served, scene: Scene) -> None:
    totals.follow(scene.store, lag_ms=-1000)
    assert {name for name, _ in scraped(served)} == {one.name for one in METRICS}


def test_totals_count_what_happened_and_survive_a_prune(served: Served, scene: Scene) -> None:
    assert totals.follow(scene.store, lag_ms=-1000) > 0
    before = scraped(served)
    assert before["crisper_events_total", "lost"] >= 1
    assert before["crisper_verdicts_total", "hold"] == 3
    scene.store.prune_rest(Old(2**60, 2**60, 2**60), limit=10_000)
    with scene.store.db.write():
        scene.store.db.run("DELETE FROM crisper_event")
    totals.follow(scene.store, lag_ms=-1000)
    after = scraped(served)
    assert {k: v for k, v in after.items() if "_total" in k[0]} == {
        k: v for k, v in before.items() if "_total" in k[0]
    }


def test_a_hostile_version_is_a_labels_value() -> None:
    hostile = 'x"} 1\ncrisper_evil{a="\\'
    lines = "".join(_lines({"crisper_workers_of_version": {hostile: 1}})).splitlines()
    assert len(lines) == 3
    assert LINE.fullmatch(lines[2])
    assert all(len(line) < 300 for line in _lines({"crisper_workers_of_version": {"v" * 10_000: 1}}))


def test_without_the_registry_the_metrics_say_so(serve: Any, tmp_path: Path) -> None:
    served = serve(f"sqlite:///{tmp_path}/none.db")
    found = scraped(served)
    assert found["crisper_registry_up", ""] == 0
    assert {name for name, _ in found} == {
        "crisper_build_info",
        "crisper_registry_up",
        "crisper_sweeper_leads",
    }


# -- health ------------------------------------------------------------------


def test_it_lives_and_is_ready(served: Served) -> None:
    assert served.stranger().get("/healthz").json() == {"status": "ok"}
    ready = served.stranger().get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "registry": "ok", "sweeper": "off"})


def test_without_the_registry_it_lives_and_is_not_ready(serve: Any, tmp_path: Path) -> None:
    served = serve(f"sqlite:///{tmp_path}/none.db")
    assert served.stranger().get("/healthz").status_code == 200
    ready = served.stranger().get("/readyz")
    assert ready.status_code == 503
    assert "crisper migrate" in ready.json()["registry"]
    answer = served.browser().get("/api/v1/status")
    assert (answer.status_code, answer.json()["error"]["kind"]) == (503, "registry_not_ready")


def test_a_registry_that_is_away_is_503_and_comes_back(serve: Any, scene: Scene) -> None:
    served, path = serve(scene.url), Path(scene.url.removeprefix("sqlite:///"))
    browser = served.browser()
    path.rename(path.with_suffix(".away"))
    for place in ("status", "workers", "tasks", "events", "tasks/x"):
        assert browser.get(f"/api/v1/{place}").status_code == 503, place
    told = {"attempt": 1, "state": "held"}
    assert browser.post(f"/api/v1/discard/{scene.ids['held']}", json=told).status_code == 503
    path.with_suffix(".away").rename(path)
    assert browser.get("/api/v1/status").status_code == 200


def test_a_server_that_is_not_there_is_named_without_its_password(serve: Any) -> None:
    served = serve("postgresql://user:hunter2@127.0.0.1:1/none")
    answer = served.browser().get("/api/v1/status")
    assert (answer.status_code, answer.json()["error"]["kind"]) == (503, "registry_unreachable")
    for place in ("/api/v1/status", "/readyz", "/metrics"):
        assert "hunter2" not in served.browser().get(place).text
    assert answer.headers["retry-after"]


# -- totals ------------------------------------------------------------------


def test_each_event_is_counted_once(scene: Scene) -> None:
    with scene.store.db.write():
        [(events,)] = scene.store.db.rows("SELECT count(*) FROM crisper_event")
    counted = 0
    while some := totals.follow(scene.store, limit=3, lag_ms=-1000):
        counted += some
    assert counted == events
    assert sum(totals.read(scene.store).events.values()) == events
    assert set(totals.read(scene.store).verdicts) <= {str(kind) for kind in VerdictKind}


def test_what_may_still_be_overtaken_is_counted_later(scene: Scene) -> None:
    assert totals.follow(scene.store) == 0
    assert totals.read(scene.store).events == {}


def test_two_followers_count_nothing_twice(scene: Scene) -> None:
    with closing(open_store(scene.url)) as other:
        first = totals.follow(scene.store, limit=4, lag_ms=-1000)
        second = totals.follow(other, lag_ms=-1000)
        assert totals.follow(scene.store, lag_ms=-1000) == 0
    assert sum(totals.read(scene.store).events.values()) == first + second
