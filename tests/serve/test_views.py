"""The dashboard's further pages, each beside the API that answers the same; and decisions about many."""

from __future__ import annotations

import csv
import io
import json
from typing import Any
from urllib.parse import quote

import pytest

from crisper.core.states import UNDER_WAY, State, VerdictKind
from crisper.faces.serve.asked import MANY
from crisper.faces.serve.shared import MOST as SHARED_MOST
from crisper.faces.serve.shared import Shared
from crisper.store import migrate
from tests.faces.scene import INJECTIONS, KEPT, Scene, new_id
from tests.serve.conftest import Served
from tests.serve.test_api import by_command
from tests.serve.test_pages import Dom, look, said
from tests.store.acting import SCOPE, Actor

SINCE = ("x", "1", "-1d", "١d", "9" * 41, "1d; DROP")


def test_failures_and_queues_answer_as_the_command_line_does(served: Served, scene: Scene) -> None:
    browser = served.browser()
    told, shown = browser.get("/api/v1/failures").json(), by_command(scene, "failures")
    assert {**told, "since": None} == {**shown, "since": None}
    assert browser.get("/api/v1/queues").json() == by_command(scene, "queues")


def test_failures_are_a_page_that_leads_to_their_tasks(served: Served, scene: Scene) -> None:
    dom = look(served.browser(), "/failures?since=2h")
    assert "the reason of held" in said(dom)
    assert "failures --since 2h" in said(dom)
    links = {one["href"] for one in dom.all("a")}
    assert f"/task?id={scene.ids['held']}" in links
    assert "/tasks?name=shop.held&state=held&since=2h" in links


def _links_of_failures(served: Served) -> set[str]:
    dom = look(served.browser(), "/failures")
    return {str(one["href"]) for one in dom.all("a") if str(one["href"]).startswith("/tasks?")}


@pytest.mark.parametrize(
    ("verdict", "state"),
    [
        *((VerdictKind.HAND_BACK, None), (VerdictKind.RESEND, None), (VerdictKind.AWAIT_REDELIVERY, None)),
        *((VerdictKind.REVOKED, "revoked"), (VerdictKind.EXPIRED, "expired")),
        *((VerdictKind.SETTLED, "settled"), (VerdictKind.FAIL, "failed"), (VerdictKind.HOLD, "held")),
        (VerdictKind.QUARANTINE, "quarantined"),
    ],
)
def test_a_group_of_what_was_lost_leads_to_its_own_tasks_or_nowhere(
    served: Served, scene: Scene, verdict: VerdictKind, state: str | None
) -> None:
    """Beside the lost one are others of its name, which did well."""
    lost = Actor(scene.store)
    lost.runs("lost", "m", name="of.one", message=KEPT)
    scene.one.ends("well", "m-well", State.SUCCEEDED, name="of.one")
    lost.is_lost()
    [case] = scene.store.take_cases(scene.one.id, SCOPE, limit=10)
    decided = scene.store.decide(case.recovery, verdict, "so", {}, by="celery@one")
    assert decided is not None
    if decided.state in UNDER_WAY:
        scene.store.complete(decided, by="celery@one", data={})
    links = {link for link in _links_of_failures(served) if "of.one" in link}
    assert links == (set() if state is None else {f"/tasks?name=of.one&state={state}&since=1d"})
    for link in links:
        shown = {str(one["href"]) for one in look(served.browser(), link).all("a")}
        assert "/task?id=lost" in shown
        assert "/task?id=well" not in shown


def test_a_group_of_what_is_not_decided_leads_to_what_is_recovering(served: Served, scene: Scene) -> None:
    lost = Actor(scene.store)
    lost.runs("lost", "m", name="of.one", message=KEPT)
    lost.is_lost()
    assert "/tasks?name=of.one&state=recovering&since=1d" in _links_of_failures(served)


def test_a_group_of_a_long_name_leads_to_its_tasks(served: Served, scene: Scene) -> None:
    scene.one.ends("long", "m", State.FAILED, name="n" * 700)
    [link] = [link for link in _links_of_failures(served) if "nnn" in link]
    assert "/task?id=long" in {str(one["href"]) for one in look(served.browser(), link).all("a")}


def test_running_says_how_long_its_name_usually_takes(served: Served, scene: Scene) -> None:
    for n in range(5):
        claim = scene.one.runs(new_id(), f"m{n}", name="shop.charge")
        scene.one.finishes(claim, runtime_ms=2000)
    with scene.store.db.write():
        scene.store.db.run(
            "UPDATE crisper_attempt SET started_at = started_at - 60000 WHERE state = 'running'"
        )
    browser = served.browser()
    [row] = browser.get("/api/v1/running").json()["running"]
    assert (row["task_id"], row["late"]) == (scene.ids["running"], True)
    assert row["usual"] == {"median": 2.0, "p95": 2.0, "attempts": 5}
    text = said(look(browser, "/running"))
    assert "late 2 s; 19 of 20 within 2 s" in text
    assert "1 task here runs for longer" in text


def test_the_timeline_draws_deaths_and_says_them_in_words(served: Served, scene: Scene) -> None:
    browser = served.browser()
    dom = look(browser, "/timeline?since=1h")
    labels = [one["aria-label"] for one in dom.all("svg") if one.get("role") == "img"]
    [two] = [label for label in labels if label and label.startswith("celery@two")]
    assert "died at" in two
    assert "1 task of it brought back" in two
    assert [one["class"] for one in dom.all("path")].count("death") == 2  # one is the legend's
    assert "how: silence" in said(dom)
    answer = browser.get("/api/v1/timeline?since=1h").json()
    assert [lane["hostname"] for lane in answer["lanes"]] == ["celery@two", "celery@one", "celery@three"]


def test_a_death_leads_to_all_that_it_lost(served: Served, scene: Scene) -> None:
    """Wherever it went since: one of them came back elsewhere."""
    browser = served.browser()
    for path in ("/", "/timeline?since=1h"):
        [link] = {one["href"] for one in look(browser, path).all("a") if "lost_by" in str(one["href"])}
        tasks = {one["href"] for one in look(browser, str(link)).all("a")}
        assert f"/task?id={scene.ids['recovered']}" in tasks
        assert f"/task?id={scene.ids['running']}" not in tasks
    found = browser.get("/api/v1/tasks", params={"lost_by": scene.two.id}).json()["tasks"]
    assert len(found) == 8
    assert found == by_command(scene, "tasks", "--lost-by", scene.two.id)["tasks"]
    told = browser.get("/api/v1/selection", params={"verb": "recover", "lost_by": scene.two.id}).json()
    assert told["matching"] == 2


def test_a_death_is_a_card_with_what_became_of_all_that_it_held(served: Served) -> None:
    text = said(look(served.browser(), "/"))
    assert "celery@two was lost" in text
    assert "It held 8 tasks , now" in text.replace("tasks,", "tasks ,")
    assert "2 held" in text


@pytest.mark.parametrize("path", ["/failures", "/timeline", "/audit", "/api/v1/failures", "/api/v1/timeline"])
@pytest.mark.parametrize("since", SINCE)
def test_a_time_that_makes_no_sense_is_400(served: Served, path: str, since: str) -> None:
    assert served.browser().get(path, params={"since": since}).status_code == 400


def test_where_there_is_nothing_the_further_pages_explain(serve: Any, sqlite_url: str) -> None:
    browser = serve(sqlite_url).browser()
    for path in ("/running", "/timeline", "/failures", "/queues", "/audit", "/many"):
        assert "crisper migrate" in said(look(browser, path, 503))
    migrate.upgrade(sqlite_url)
    told = {
        "/running": "Nothing runs now.",
        "/timeline": "No worker was on record in that time.",
        "/failures": "Nothing failed, was lost or rejected",
        "/queues": "No queue is known",
        "/audit": "Nothing had to be decided yet",
        "/many": "There is nothing to recover",
        "/many?verb=stop": "stop every task there is? Narrow it",
    }
    for path, sentence in told.items():
        assert sentence in said(look(browser, path))


# -- the audit trail ---------------------------------------------------------


def test_the_audit_trail_says_who_decided_what_and_why(served: Served, scene: Scene) -> None:
    text = said(look(served.browser(), "/audit?by=ann@*"))
    assert "verdict: discard, because the order was cancelled (by ann@desk)" in text
    assert "the reason of held" not in text
    assert "events --kind verdict --kind stop --kind worker_lost --kind pruned --by 'ann@*'" in text


def test_that_somebody_pruned_is_a_decision_with_its_reason(served: Served, scene: Scene) -> None:
    scene.store.note("pruned", None, None, "ann@desk", {"tasks": 7, "reason": "the disk is full"})
    for by in ("", "?by=ann@*"):
        text = said(look(served.browser(), f"/audit{by}"))
        assert "pruned" in text
        assert "the disk is full" in text


def test_the_audit_trail_goes_on_to_older_ones(served: Served, scene: Scene) -> None:
    for n in range(60):
        scene.one.runs(f"t{n}", f"m{n}")
        assert scene.store.stop(f"t{n}", by="ann@desk", reason="too many") is not None
    browser = served.browser()
    dom = look(browser, "/audit?kind=stop")
    seen = [one["href"] for one in dom.all("a") if (one["href"] or "").startswith("/task?")]
    [older] = [one["href"] for one in dom.all("a") if one.get("rel") == "next"]
    rest = look(browser, str(older))
    seen += [one["href"] for one in rest.all("a") if (one["href"] or "").startswith("/task?")]
    assert seen == [f"/task?id=t{n}" for n in reversed(range(60))]


def test_the_export_is_all_of_it_and_a_spreadsheet_reckons_nothing(served: Served, scene: Scene) -> None:
    scene.one.runs("=cmd()", "m")
    assert scene.store.stop("=cmd()", by="@ann", reason='+1, "so"') is not None
    browser = served.browser()
    answer = browser.get("/api/v1/export/events?format=csv&kind=stop&kind=verdict")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="crisper-audit.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(rows) == 10
    assert [rows[-1][name] for name in ("task_id", "actor", "reason")] == ["'=cmd()", "'@ann", '\'+1, "so"']
    lines = browser.get("/api/v1/export/events?kind=stop&kind=verdict").text.splitlines()
    events = browser.get("/api/v1/events?limit=1000").json()["events"]
    assert [json.loads(line) for line in lines] == [
        one for one in events if one["kind"] in ("stop", "verdict")
    ]
    assert browser.get("/api/v1/export/events?format=xls").status_code == 400


# -- many at once ------------------------------------------------------------


def test_what_a_page_shows_of_many_is_what_is_done(served: Served, scene: Scene) -> None:
    browser = served.browser()
    dom = look(browser, "/many?verb=recover&state=quarantined")
    assert "1 task had begun: what a body has done already, it does again" in said(dom)
    assert "recover --all --state quarantined --dry-run" in said(dom)
    [form] = [one for one in dom.all("form") if one.get("data-tasks")]
    tasks = json.loads(form["data-tasks"] or "")
    assert tasks == [{"task_id": scene.ids["quarantined"], "attempt": 1, "state": "quarantined"}]
    told = browser.get("/api/v1/selection?verb=recover&state=quarantined").json()
    assert (told["tasks"], told["matching"]) == (tasks, 1)
    answer = browser.post(
        str(form["data-post"]), json={"tasks": tasks, "confirm": 1, "reason": "the disk is fixed"}
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["said"] == "1 of 1: decided; a live worker of its app sends it"
    assert "the disk is fixed" in json.dumps(by_command(scene, "show", scene.ids["quarantined"]))


def test_of_many_what_has_moved_is_left_and_the_rest_is_done(served: Served, scene: Scene) -> None:
    seen = [{"task_id": scene.ids[name], "attempt": 1, "state": "held"} for name in ("held", "quarantined")]
    answer = served.browser().post("/api/v1/discard", json={"tasks": seen, "confirm": 2})
    assert answer.status_code == 207
    assert [one["outcome"] for one in answer.json()["tasks"]] == ["done", "moved"]
    assert by_command(scene, "show", scene.ids["quarantined"])["state"] == "quarantined"
    assert "is closed for good" in answer.json()["said"]


def test_many_are_chosen_by_all_that_tasks_are_found_by(served: Served, scene: Scene) -> None:
    browser = served.browser()
    asked = f"verb=recover&argument=EUR&since=1h&id={scene.ids['held'][:8]}"
    dom = look(browser, f"/many?{asked}")
    [form] = [one for one in dom.all("form") if one.get("data-tasks")]
    assert [one["task_id"] for one in json.loads(form["data-tasks"] or "")] == [scene.ids["held"]]
    given = {one["name"]: one.get("value") for one in dom.all("input")}
    assert (given["argument"], given["since"], given["id"]) == ("EUR", "1h", scene.ids["held"][:8])
    assert f"recover --all --argument EUR --since 1h --id {scene.ids['held'][:8]} --dry-run" in said(dom)
    assert browser.get(f"/api/v1/selection?{asked}").json()["matching"] == 1
    assert browser.get("/api/v1/selection?verb=recover&until=1h").json()["tasks"] == []
    assert browser.get("/many?verb=recover&worker=celery@one&older_than=0s").status_code == 200
    assert "is no time" in said(look(browser, "/many?verb=recover&since=yesterday", 400))


@pytest.mark.parametrize(
    ("asked", "verbs"),
    [
        ("name=shop.*&queue=a%26b&since=2h", ["recover", "discard", "stop"]),
        ("state=held", ["recover", "discard", "stop"]),
        ("state=held&state=failed", ["recover"]),
        ("state=running&id=abcdef&argument=EUR&worker=w&older_than=0s", ["stop"]),
        ("lost_by=life&until=1h", ["recover", "discard", "stop"]),
        ("state=succeeded", []),
        ("limit=3", []),
        ("", []),
    ],
)
def test_what_is_filtered_leads_to_what_may_be_done_about_it(
    served: Served, asked: str, verbs: list[str]
) -> None:
    browser = served.browser()
    links = _to_many(look(browser, f"/tasks?{asked}"))
    assert links == [f"/many?verb={verb}&{asked.replace('*', '%2A')}" for verb in verbs]
    for link in links:
        assert browser.get(link).status_code == 200


def test_a_viewer_is_led_to_no_decision(served_elsewhere: Served) -> None:
    assert _to_many(look(served_elsewhere.signed_in("ann"), "/tasks?state=held"))
    assert not _to_many(look(served_elsewhere.signed_in("vic"), "/tasks?state=held"))


def _to_many(dom: Dom) -> list[str]:
    return [str(one["href"]) for one in dom.all("a") if str(one["href"]).startswith("/many")]


SEEN = {"task_id": "t", "attempt": 1, "state": "held"}


@pytest.mark.parametrize(
    "told",
    [
        *({}, {"tasks": [], "confirm": 0}, {"tasks": {}}, {"tasks": [1]}),
        {"tasks": [SEEN, SEEN], "confirm": 2},
        *(
            {"tasks": [{**SEEN, "attempt": "1"}], "confirm": 1},
            {"tasks": [{**SEEN, "x": 1}], "confirm": 1},
            {"tasks": [SEEN], "confirm": 1, "all": True},
        ),
        *({"tasks": [SEEN], "confirm": many} for many in (0, 2, True, "1", None)),
        *(
            {"tasks": [{**SEEN, "state": ["held"]}], "confirm": 1},
            {"tasks": [SEEN], "confirm": 1, "reason": "x" * 1001},
        ),
        {"tasks": [{**SEEN, "task_id": f"t{n}"} for n in range(MANY + 1)], "confirm": MANY + 1},
    ],
)
def test_of_many_nonsense_is_400(served: Served, told: dict[str, Any]) -> None:
    answer = served.browser().post("/api/v1/discard", json=told)
    assert (answer.status_code, answer.json()["error"]["kind"]) == (400, "bad_question")


def test_many_at_once_weigh_more_than_one(served: Served) -> None:
    browser = served.browser()
    answers = [
        browser.post("/api/v1/discard", json={"tasks": [SEEN], "confirm": 1}).status_code for _ in range(7)
    ]
    assert answers == [207] * 6 + [429]


def test_a_viewer_sees_what_would_be_done_and_no_button(served_elsewhere: Served) -> None:
    dom = look(served_elsewhere.signed_in("vic"), "/many")
    assert "an operator may decide" in said(dom)
    assert not [one for one in dom.all("form") if one.get("data-tasks")]


@pytest.mark.parametrize("text", INJECTIONS)
def test_hostile_filters_are_only_words(served: Served, text: str) -> None:
    sent = quote(text[:400], safe="", errors="surrogatepass")
    browser = served.browser()
    for path in ("/audit?by=", "/audit?task_id=", "/audit?kind=", "/many?name=", "/many?verb=stop&queue="):
        assert browser.get(f"{path}{sent}").status_code == 200, path


def test_hostile_reasons_and_queues_are_text(served: Served, scene: Scene) -> None:
    evil = '"><img src=x onerror=alert(1)>'
    claim = scene.one.runs(evil, "m", name=evil, queue=evil)
    scene.one.finishes(claim, State.FAILED, reason=f"{evil}: {evil}")
    scene.one.runs(f"{evil}2", "m2", name=evil, queue=evil)
    browser = served.browser()
    for path in ("/failures", "/queues", "/running", "/audit?kind=everything", "/many?verb=stop&name=*"):
        assert not look(browser, path).all("img")


# -- what many ask at once ---------------------------------------------------


def test_what_many_ask_is_asked_once_and_anew_when_it_is_old_or_forgotten() -> None:
    now, asked = [0.0], []
    shared = Shared(lambda: now[0])

    def question() -> int:
        asked.append(1)
        return len(asked)

    assert [shared.ask("x", question, seconds=1) for _ in range(3)] == [1, 1, 1]
    now[0] = 1.0
    assert shared.ask("x", question, seconds=1) == 2
    shared.forget()
    assert shared.ask("x", question, seconds=1) == 3
    with pytest.raises(ZeroDivisionError):
        shared.ask("y", lambda: 1 // 0, seconds=1)
    for n in range(SHARED_MOST):
        shared.ask(n, question, seconds=1)
    assert len(shared._answers) == SHARED_MOST
