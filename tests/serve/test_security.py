"""The rules of docs/howto/serve.md: who gets in, by which name, and what a state change must bring along."""

from __future__ import annotations

import base64
import re
import sys
from typing import Any

import pytest

from crisper.faces.serve.access import Needs, Role
from crisper.faces.serve.doors import Door
from crisper.faces.serve.names import Names
from tests.faces.scene import PREVIEWS, Scene
from tests.serve.conftest import PASSWORD, Served

#: What nobody needs to show who they are for; any other door is closed to strangers.
OPEN = {("GET", "/healthz"), ("POST", "/api/v1/session"), ("GET", "/enter"), ("GET", "/static/{name}")}
OPEN_ON_LOOPBACK = {("GET", "/metrics"), ("GET", "/readyz")}
OPERATORS = {
    ("POST", f"/api/v1/{verb}{one}")
    for verb in ("recover", "discard", "stop")
    for one in ("", "/{task_id:path}")
}


def doors_of(served: Served) -> dict[tuple[str, str], Door]:
    return {(door.method, door.path): door for door in served.app._doors.all}


def routes_of(served: Served) -> set[tuple[str, str]]:
    """From the router itself, so that a route nobody declared is found."""
    routes = served.app._app.routes  # type: ignore[attr-defined]
    return {(method, route.path) for route in routes for method in route.methods if method != "HEAD"}


def ask(client: Any, method: str, path: str, **more: Any) -> int:
    path = path.replace("{task_id:path}", "some-task").replace("{name}", "style.css")
    if method == "POST":
        more.setdefault("json", {"attempt": 1, "state": "held"})
    return int(client.request(method, path, **more).status_code)


@pytest.mark.parametrize("where", ["served", "served_elsewhere"])
def test_every_route_is_declared(request: pytest.FixtureRequest, where: str) -> None:
    served = request.getfixturevalue(where)
    assert routes_of(served) == set(doors_of(served))


@pytest.mark.parametrize("where", ["served", "served_elsewhere"])
def test_every_route_is_closed_to_strangers_but_those_named_here(
    request: pytest.FixtureRequest, where: str
) -> None:
    served = request.getfixturevalue(where)
    open_here = OPEN | (OPEN_ON_LOOPBACK if where == "served" else set())
    for method, path in routes_of(served) - open_here:
        assert ask(served.stranger(), method, path) == 401, (method, path)
    for method, path in {("GET", "/nowhere"), ("PUT", "/api/v1/status"), ("DELETE", "/"), ("TRACE", "/")}:
        assert ask(served.stranger(), method, path) == 401, (method, path)


def test_what_is_open_is_open(served: Served, served_elsewhere: Served) -> None:
    for method, path in {("GET", "/healthz"), *OPEN_ON_LOOPBACK}:
        assert ask(served.stranger(), method, path) == 200, path
    assert ask(served_elsewhere.stranger(), "GET", "/healthz") == 200
    for path in ("/metrics", "/readyz"):
        assert ask(served_elsewhere.program("vic"), "GET", path) == 200


def test_a_viewer_looks_and_does_nothing(served_elsewhere: Served) -> None:
    doors = doors_of(served_elsewhere)
    for client in (served_elsewhere.signed_in("vic"), served_elsewhere.program("vic")):
        for (method, path), door in doors.items():
            if door.needs is Needs.OPERATOR:
                assert ask(client, method, path) == 403, path
            elif method == "GET" and door.needs is not Needs.NOTHING and path != "/live":  # it does not end
                assert ask(client, method, path) not in (401, 403), path
    assert {place for place, door in doors.items() if door.needs is Needs.OPERATOR} == OPERATORS


def test_a_viewer_sees_nothing_of_what_tasks_were_called_with(served_elsewhere: Served, scene: Scene) -> None:
    """Of the scene: `[42, "x"]` and `{"currency": "EUR"}`; and what a task keeps for itself."""
    scene.one.saves(scene.one.runs("kept", "m", **PREVIEWS), '{"seen": "CANARY"}')
    secrets = re.compile(r"currency|EUR|CANARY")
    ids = [*scene.ids.values(), "kept"]
    places = [f"/task?id={id}" for id in ids] + [f"/api/v1/tasks/{id}" for id in ids]
    for client in (served_elsewhere.signed_in("vic"), served_elsewhere.program("vic")):
        for path in places:
            assert not secrets.search(client.get(path).text), path
        for path in ("/tasks", "/many", "/api/v1/tasks", "/api/v1/selection"):
            assert ask(client, "GET", f"{path}?argument=EUR") == 403, path
        assert 'name="argument"' not in client.get("/tasks").text
    ann = served_elsewhere.signed_in("ann")
    assert sum(bool(secrets.search(ann.get(path).text)) for path in places) > 2
    assert ask(ann, "GET", "/tasks?argument=EUR") == 200


def test_who_asks_by_another_method_is_told_which_there_are(served: Served) -> None:
    answer = served.browser().request("TRACE", "/api/v1/recover/x")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_every_state_change_is_a_post_by_an_operator(served: Served) -> None:
    changing = {place for place in doors_of(served) if place[0] != "GET"}
    assert changing - OPERATORS == {("POST", "/api/v1/session/end")}
    for _, path in OPERATORS:
        for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"):
            assert ask(served.browser(), method, path) == 405, (method, path)


# -- a route that the application has and no door declares --------------------


def test_what_no_door_declares_is_not_there_even_if_the_application_has_it(served: Served) -> None:
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    served.app._app.routes.append(Route("/forgotten", lambda request: PlainTextResponse("secret")))  # type: ignore[attr-defined]
    assert ask(served.stranger(), "GET", "/forgotten") == 401
    assert ask(served.browser(), "GET", "/forgotten") == 404


# -- names -------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8555", "127.0.0.1.evil.example", "localhost.evil.example", "", "a b",
     "10.1.2.3", "[::1", "127.0.0.1:8555:1", "localhost\t", "127.0.0.1@evil.example", "2130706433"],
)  # fmt: skip
def test_by_another_name_nobody_gets_anything(served: Served, host: str) -> None:
    """What a page elsewhere sends, once its own name points at loopback."""
    browser = served.browser()
    for path in ("/api/v1/status", "/healthz", "/metrics", "/enter?token=x"):
        answer = browser.get(path, headers={"Host": host})
        assert answer.status_code == 421, (host, path)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8555", "LOCALHOST", "[::1]:8555"])
def test_by_loopbacks_names_one_gets_in(served: Served, host: str) -> None:
    assert served.stranger().get("/healthz", headers={"Host": host}).status_code == 200


def test_a_proxys_callers_are_not_on_loopback() -> None:
    names = Names("127.0.0.1", ["crisper.example"])
    assert names.may_be("crisper.example")
    assert names.is_here("127.0.0.1:8555")
    assert not names.is_here("crisper.example")
    assert not Names("0.0.0.0").is_here("127.0.0.1")


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded"])
def test_what_a_proxy_passes_on_is_not_from_here_whatever_host_it_names(served: Served, header: str) -> None:
    for path, status in (("/metrics", 401), ("/readyz", 401), ("/healthz", 200)):
        assert served.stranger().get(path, headers={header: "for=10.1.2.3"}).status_code == status


# -- the link ----------------------------------------------------------------


def test_the_link_opens_one_session_and_another_takes_its_place(served: Served) -> None:
    [token] = served.tokens
    first, second = served.stranger(), served.stranger()
    assert first.get("/enter", params={"token": token}).status_code == 303
    assert second.get("/enter", params={"token": token}).status_code == 401
    assert len(served.tokens) == 2
    assert first.get("/api/v1/status").status_code == 200
    assert second.get("/api/v1/status").status_code == 401
    assert served.browser().get("/api/v1/status").status_code == 200


@pytest.mark.parametrize("token", ["", "x", "\x00", "é", "a" * 43])
def test_another_token_opens_nothing(served: Served, token: str) -> None:
    client = served.stranger()
    assert client.get("/enter", params={"token": token}).status_code == 401
    assert not client.cookies


def test_a_sessions_cookie_is_not_for_scripts_or_other_sites(served: Served) -> None:
    answer = served.stranger().get("/enter", params={"token": served.tokens[-1]})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie


@pytest.mark.parametrize(("scheme", "secure"), [("http", False), ("https", True)])
def test_over_https_the_cookie_never_travels_without_it(served: Served, scheme: str, secure: bool) -> None:
    client = served.stranger()
    client.base_url = f"{scheme}://127.0.0.1:8555"
    answer = client.get("/enter", params={"token": served.tokens[-1]})
    assert ("secure" in answer.headers["set-cookie"].lower()) is secure


def test_a_session_ends_when_somebody_ends_it(served: Served) -> None:
    browser = served.browser()
    id = browser.cookies["crisper_session"]
    assert browser.post("/api/v1/session/end", json={}).status_code == 200
    browser.cookies.set("crisper_session", id)
    assert browser.get("/api/v1/status").status_code == 401


# -- state changes -----------------------------------------------------------


def held(scene: Scene) -> str:
    return f"/api/v1/discard/{scene.ids['held']}"


SAW = {"attempt": 1, "state": "held"}


def assert_nothing_happened(scene: Scene) -> None:
    case = scene.store.case(scene.ids["held"], 1)
    assert case is not None
    assert case.recovery.state == "held"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X-CSRF-Token": ""}, 403),
        ({"X-CSRF-Token": "another"}, 403),
        ({"X-CSRF-Token": "é".encode()}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1234"}, 403),
        ({"Origin": "http://127.0.0.1.evil.example:8555"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": ""}, 415),
    ],
)
def test_what_another_site_can_send_changes_nothing(
    served: Served, scene: Scene, headers: dict[str, Any], status: int
) -> None:
    body = b'{"attempt": 1, "state": "held"}'
    browser = served.browser()
    sent = {"Content-Type": "application/json", **headers}
    assert browser.post(held(scene), content=body, headers=sent).status_code == status
    assert_nothing_happened(scene)


def test_a_page_of_ours_changes_what_it_may(served: Served, scene: Scene) -> None:
    headers = {"Origin": "http://127.0.0.1:8555", "Sec-Fetch-Site": "same-origin"}
    assert served.browser().post(held(scene), json=SAW, headers=headers).status_code == 200


def test_a_token_of_another_session_is_none(served: Served, scene: Scene) -> None:
    one, other = served.browser(), served.browser()
    one.headers["X-CSRF-Token"] = other.headers["X-CSRF-Token"]
    assert one.post(held(scene), json=SAW).status_code == 403
    assert_nothing_happened(scene)


def test_a_programs_password_is_no_way_in_for_another_site(served_elsewhere: Served, scene: Scene) -> None:
    """A browser may send remembered credentials along; it says from where."""
    program = served_elsewhere.program("ann")
    foreign = {"Origin": "http://evil.example"}
    assert program.post(held(scene), json=SAW, headers=foreign).status_code == 403
    assert program.post(held(scene), data={"attempt": "1"}).status_code == 415
    assert_nothing_happened(scene)
    assert program.post(held(scene), json=SAW).status_code == 200


# -- accounts ----------------------------------------------------------------


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


@pytest.mark.parametrize(
    "name",
    ["ANN", "ann ", " ann", "ann\n", "ann@evil.example", "a.n", "ann\x00", "ａnn", "*", ".*", "an", ""],
)
def test_a_name_is_that_name_and_no_other(served_elsewhere: Served, name: str) -> None:
    headers = basic(name, PASSWORD)
    assert served_elsewhere.stranger().get("/api/v1/status", headers=headers).status_code in (401, 429)


@pytest.mark.parametrize(
    "header",
    [
        "Basic",
        "Basic ",
        "Basic !!!",
        "Bearer x",
        "Basic " + "A" * 9000,
        "basic YW5u",
        "Basic \xff",
        "Digest a=b",
    ],
)
def test_credentials_that_make_no_sense_are_none(served_elsewhere: Served, header: str) -> None:
    answer = served_elsewhere.stranger().get(
        "/api/v1/status", headers={"Authorization": header.encode("latin-1")}
    )
    assert answer.status_code == 401


def test_without_accounts_a_password_is_nothing(served: Served) -> None:
    assert served.stranger().get("/api/v1/status", headers=basic("ann", PASSWORD)).status_code == 401
    assert ask(served.stranger(), "POST", "/api/v1/session", json={"name": "ann", "password": "x"}) == 401


def test_with_accounts_there_is_no_link(served_elsewhere: Served) -> None:
    assert served_elsewhere.tokens == []
    assert served_elsewhere.stranger().get("/enter?token=").status_code == 401


def test_signing_in_gives_the_accounts_role(served_elsewhere: Served, scene: Scene) -> None:
    answer = served_elsewhere.stranger().post("/api/v1/session", json={"name": "ann", "password": PASSWORD})
    assert answer.json() == {"name": "ann", "role": "operator"}
    assert served_elsewhere.signed_in("ann").post(held(scene), json=SAW).status_code == 200
    wrong = {"name": "ann", "password": "another word"}
    assert served_elsewhere.stranger().post("/api/v1/session", json=wrong).status_code == 401


def test_the_audit_row_names_who_decided(served_elsewhere: Served, scene: Scene) -> None:
    assert served_elsewhere.program("ann").post(held(scene), json=SAW).status_code == 200
    told = served_elsewhere.program("vic").get(f"/api/v1/tasks/{scene.ids['held']}").json()
    assert told["verdicts"][-1]["decided_by"].startswith("ann@")


# -- what every answer carries -----------------------------------------------


@pytest.mark.parametrize(
    "path", ["/healthz", "/api/v1/status", "/nowhere", "/metrics", "/api/v1/tasks?limit=0"]
)
def test_every_answer_forbids_what_a_page_could_be_made_to_do(served: Served, path: str) -> None:
    for client in (served.stranger(), served.browser()):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert not [name for name in headers if name.startswith("access-control")]


def test_an_error_in_our_own_code_shows_an_id_and_no_cause(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*args: object, **options: object) -> None:
        raise RuntimeError("the password is hunter2")

    monkeypatch.setattr("crisper.engine.survey.Survey.status", fails)
    answer = served.browser().get("/api/v1/status")
    assert answer.status_code == 500
    assert "hunter2" not in answer.text
    assert "Traceback" not in answer.text
    [record] = [r for r in caplog.records if r.name == "crisper.serve"]
    assert record.args[0] in answer.text  # type: ignore[index]


def test_roles_are_ordered() -> None:
    assert Role.VIEWER < Role.OPERATOR
    assert not Needs.VIEWER.lets_in(None, loopback=True)
    assert Needs.NOTHING_ON_LOOPBACK.lets_in(Role.VIEWER, loopback=False)


def test_nothing_here_unpickles(served: Served) -> None:
    sources = [
        m.__file__ for n, m in sys.modules.items() if n.startswith("crisper.faces.serve") and m.__file__
    ]
    assert len(sources) > 10
    for path in sources:
        with open(path, encoding="utf-8") as file:
            assert "pickle" not in file.read()
