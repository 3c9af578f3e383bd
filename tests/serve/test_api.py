"""The JSON API answers as the command line does, and acts on what was seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from click.testing import CliRunner

from crisper.engine.control import Outcome
from crisper.faces.cli import cli
from crisper.faces.serve import parameters
from crisper.faces.serve.access import Needs
from crisper.faces.serve.pace import MOST, WITHIN_SECONDS, Pace
from crisper.faces.serve.saying import Answered
from tests.faces.scene import HOSTILE, INJECTIONS, Scene, new_id
from tests.serve.conftest import Served


def by_command(scene: Scene, *words: str) -> Any:
    result = CliRunner().invoke(cli, ["--registry", scene.url, *words, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def without_now(answer: Any) -> Any:
    answer.get("registry", {}).pop("now", None)
    return answer


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("status", ["status"]),
        ("workers", ["workers"]),
        ("workers?all=true", ["workers", "--all"]),
        ("tasks", ["tasks"]),
        (
            "tasks?state=held&state=quarantined&limit=2",
            ["tasks", "--state", "held", "--state", "quarantined", "--limit", "2"],
        ),
        ("tasks?name=shop.*&worker=celery@two", ["tasks", "--name", "shop.*", "--worker", "celery@two"]),
        ("tasks?queue=mail&older_than=1h", ["tasks", "--queue", "mail", "--older-than", "1h"]),
        (
            "tasks?argument=EUR&since=1d&until=2999-01-01",
            ["tasks", "--argument", "EUR", "--since", "1d", "--until", "2999-01-01"],
        ),
    ],
)
def test_it_answers_as_the_command_line_does(
    served: Served, scene: Scene, path: str, words: list[str]
) -> None:
    answer = served.browser().get(f"/api/v1/{path}")
    assert answer.status_code == 200, answer.text
    assert without_now(answer.json()) == without_now(by_command(scene, *words))


def test_one_tasks_story_is_that_of_show(served: Served, scene: Scene) -> None:
    id = scene.ids["recovered"]
    assert served.browser().get(f"/api/v1/tasks/{id}").json() == by_command(scene, "show", id)
    missing = served.browser().get(f"/api/v1/tasks/{new_id()}")
    assert (missing.status_code, missing.json()["error"]["kind"]) == (404, "not_found")


def test_pages_go_on_where_the_one_before_ended(served: Served, scene: Scene) -> None:
    browser, seen, cursor = served.browser(), [], ""
    while cursor is not None:
        page = browser.get("/api/v1/tasks", params={"limit": 4, "cursor": cursor}).json()
        seen += [task["task_id"] for task in page["tasks"]]
        cursor = page["next"]
    assert sorted(seen) == sorted(scene.ids.values())


def test_events_are_told_in_order_and_by_kind(served: Served, scene: Scene) -> None:
    browser = served.browser()
    first = browser.get("/api/v1/events", params={"limit": 3}).json()
    rest = browser.get("/api/v1/events", params={"after": first["next"]}).json()
    whole = browser.get("/api/v1/events").json()
    assert first["events"] + rest["events"] == whole["events"]
    lost = browser.get("/api/v1/events", params={"kind": "lost", "task_id": scene.ids["held"]}).json()
    assert [event["task_id"] for event in lost["events"]] == [scene.ids["held"]]


# -- acting ------------------------------------------------------------------


def act(served: Served, verb: str, id: str, **told: Any) -> Any:
    return served.browser().post(f"/api/v1/{verb}/{id}", json=told)


@pytest.mark.parametrize(
    ("verb", "name", "state"),
    [
        ("recover", "quarantined", "quarantined"),
        ("recover", "discarded", "discarded"),
        ("discard", "held", "held"),
        ("stop", "running", "running"),
        ("stop", "recovering", "recovering"),
    ],
)
def test_an_operator_decides_on_what_they_saw(
    served: Served, scene: Scene, verb: str, name: str, state: str
) -> None:
    answer = act(served, verb, scene.ids[name], attempt=1, state=state, reason="the disk is fixed")
    assert answer.status_code == 200, answer.text
    [done] = answer.json()["tasks"]
    assert (done["outcome"], done["attempt"]) == ("done", 1)
    told = by_command(scene, "show", scene.ids[name])
    assert "the disk is fixed" in json.dumps(told["events"])
    assert told["state"] != state or verb == "stop"


@pytest.mark.parametrize("verb", ["recover", "discard", "stop"])
@pytest.mark.parametrize("saw", [(1, "recovering"), (2, "held"), (7, "held")])
def test_who_saw_something_else_gets_409_and_changes_nothing(
    served: Served, scene: Scene, verb: str, saw: tuple[int, str]
) -> None:
    before = by_command(scene, "show", scene.ids["held"])
    answer = act(served, verb, scene.ids["held"], attempt=saw[0], state=saw[1])
    assert answer.status_code == 409
    [refused] = answer.json()["tasks"]
    assert refused["outcome"] == "moved"
    assert "look at it again" in refused["reason"]
    assert by_command(scene, "show", scene.ids["held"]) == before


def test_a_whole_number_is_one_however_json_writes_it(served: Served, scene: Scene) -> None:
    assert act(served, "discard", scene.ids["held"], attempt=1.0, state="held").status_code == 200
    assert act(served, "discard", scene.ids["not kept"], attempt=1.5, state="held").status_code == 400


def test_a_task_whose_id_has_two_lines_is_found_and_decided_about(served: Served, scene: Scene) -> None:
    scene.one.runs("one\r\ntwo", "message of two lines")
    path = quote("one\r\ntwo", safe="")
    assert served.browser().get(f"/api/v1/tasks/{path}").json()["task_id"] == "one\r\ntwo"
    assert act(served, "stop", path, attempt=1, state="running").status_code == 200


def test_of_two_operators_with_one_page_one_decides(served: Served, scene: Scene) -> None:
    saw = {"attempt": 1, "state": "quarantined"}
    answers = [act(served, verb, scene.ids["quarantined"], **saw) for verb in ("discard", "recover")]
    assert [answer.status_code for answer in answers] == [200, 409]
    assert by_command(scene, "show", scene.ids["quarantined"])["state"] == "discarded"


@pytest.mark.parametrize(
    ("verb", "name", "status", "outcome"),
    [
        ("recover", "succeeded", 409, "refused"),
        ("recover", "not kept", 409, "not_possible"),
        ("stop", "succeeded", 409, "not_possible"),
    ],
)
def test_what_cannot_be_done_says_why(
    served: Served, scene: Scene, verb: str, name: str, status: int, outcome: str
) -> None:
    state = by_command(scene, "show", scene.ids[name])["state"]
    answer = act(served, verb, scene.ids[name], attempt=1, state=state)
    assert (answer.status_code, answer.json()["tasks"][0]["outcome"]) == (status, outcome)
    assert answer.json()["tasks"][0]["reason"]


def test_a_task_that_is_not_on_record_is_404(served: Served) -> None:
    answer = act(served, "recover", new_id(), attempt=1, state="held")
    assert (answer.status_code, answer.json()["tasks"][0]["outcome"]) == (404, "not_found")


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"attempt": 1},
        {"attempt": "1", "state": "held"},
        {"attempt": True, "state": "held"},
        {"attempt": 0, "state": "held"},
        {"attempt": 2**40, "state": "held"},
        {"attempt": 1, "state": "unheard of"},
        {"attempt": 1, "state": ["held"]},
        {"attempt": 1, "state": "held", "reason": "x" * 1001},
        {"attempt": 1, "state": "held", "reason": 1},
        {"attempt": 1, "state": "held", "args": []},
        {"attempt": 1, "state": "held", "name": "shop.charge"},
    ],
)
def test_nonsense_is_400_and_changes_nothing(served: Served, scene: Scene, told: dict[str, Any]) -> None:
    answer = act(served, "discard", scene.ids["held"], **told)
    assert (answer.status_code, answer.json()["error"]["kind"]) == (400, "bad_question")
    assert by_command(scene, "show", scene.ids["held"])["state"] == "held"


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"[" * 10_000, b'{"a": NaN}x', b"\xff"])
def test_a_body_that_is_no_object_is_400(served: Served, scene: Scene, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = served.browser().post(f"/api/v1/stop/{scene.ids['held']}", content=body, headers=headers)
    assert answer.status_code == 400


def test_a_large_body_is_413(served: Served, scene: Scene) -> None:
    answer = act(served, "discard", scene.ids["held"], attempt=1, state="held", reason="x" * 20_000)
    assert answer.status_code == 413


def test_nobody_decides_faster_than_people_do() -> None:
    now = [0.0]
    pace = Pace(lambda: now[0])
    for _ in range(MOST):
        pace.one_more("ann")
    with pytest.raises(Answered) as refused:
        pace.one_more("ann")
    assert refused.value.status == 429
    pace.one_more("bob")
    now[0] = WITHIN_SECONDS
    pace.one_more("ann")


def test_a_script_gone_wild_is_stopped(served: Served) -> None:
    browser, told = served.browser(), {"attempt": 1, "state": "held"}
    answers = [browser.post(f"/api/v1/discard/{new_id()}", json=told).status_code for _ in range(MOST + 1)]
    assert answers == [404] * MOST + [429]


# -- limits ------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        *(
            "tasks?limit=",
            "tasks?limit=0",
            "tasks?limit=1001",
            "tasks?limit=1000000000",
            "tasks?limit=-1",
            "tasks?limit=x",
        ),
        *("tasks?limit=%D9%A3", "tasks?state=unheard", "tasks?older_than=1000000000x", "tasks?cursor=x"),
        *("tasks?name=" + "*a" * 10, "tasks?name=" + "x" * 2000, "tasks?worker=" + "x" * 2000),
        *("tasks?unknown=1", "tasks?limit=1&limit=2", "workers?all=perhaps", "workers?limit=99999"),
        *(
            "tasks?since=soon",
            "tasks?until=" + "9s" * 30,
            "tasks?argument=" + "x" * 201,
            "tasks?id=" + "x" * 1025,
        ),
        *("events?limit=5000", "events?after=W10", "events?kind=" + "x" * 1025, "status?x=1"),
        "tasks?" + "&".join(["state=held"] * 60),
    ],
)
def test_every_parameter_has_a_limit(served: Served, query: str) -> None:
    answer = served.browser().get(f"/api/v1/{query}")
    assert (answer.status_code, answer.json()["error"]["kind"]) == (400, "bad_question"), answer.text


def test_a_long_address_is_414(served: Served) -> None:
    browser = served.browser()
    assert browser.get("/api/v1/tasks/" + "x" * 5000).status_code == 414
    assert browser.get("/api/v1/tasks?name=" + "x" * 9000).status_code == 414


@pytest.mark.parametrize("text", [*INJECTIONS, *HOSTILE])
def test_hostile_words_are_only_words(served: Served, scene: Scene, text: str) -> None:
    browser = served.browser()
    sent = quote(text[:800], safe="", errors="surrogatepass")
    for name in ("name", "worker", "queue", "id", "argument", "since"):
        answer = browser.get(f"/api/v1/tasks?{name}={sent}")
        assert answer.status_code in (200, 400), answer.text
    assert browser.get(f"/api/v1/tasks/{sent}").status_code in (404, 414)
    assert len(browser.get("/api/v1/tasks").json()["tasks"]) == len(scene.ids)


# -- the description ---------------------------------------------------------


def test_the_description_names_every_door_of_the_api_and_no_other(served: Served) -> None:
    described = served.browser().get("/api/v1/openapi.json").json()
    told = {(method.upper(), path) for path, methods in described["paths"].items() for method in methods}
    doors = [door for door in served.app._doors.all if door.path.startswith("/api/")]
    assert told == {(door.method, door.path.replace(":path", "")) for door in doors}
    ids = [one["operationId"] for methods in described["paths"].values() for one in methods.values()]
    assert len(set(ids)) == len(ids)
    assert described["openapi"] == "3.1.0"
    for door in doors:
        one = described["paths"][door.path.replace(":path", "")][door.method.lower()]
        assert bool(one["security"]) is (door.needs is not Needs.NOTHING)


def test_every_described_parameter_is_heeded(served: Served) -> None:
    browser = served.browser()
    for path, those in parameters.PARAMETERS.items():
        for one in those:
            answer = browser.get(path, params={one.name: "\x01"})
            heeded = answer.status_code == 200 or "there is no parameter" not in answer.text
            assert heeded, (path, one.name, answer.text)


def test_every_outcome_has_a_place_in_the_reference() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "json.md").read_text()
    assert not [outcome for outcome in Outcome if f"`{outcome}`" not in page]
