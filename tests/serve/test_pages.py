"""The dashboard: every page has an address, says what it shows or why it shows nothing, and only shows."""

from __future__ import annotations

import asyncio
import re
import threading
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from starlette.testclient import TestClient

from crisper.core.model import Published, Pulse
from crisper.faces.serve import live
from crisper.faces.serve.live import Live, Watch
from crisper.store import migrate
from tests.faces.scene import HOSTILE, INJECTIONS, KEPT, Scene, new_id
from tests.serve.conftest import Served
from tests.store.acting import SCOPE, Actor

PAGES = (
    *("/", "/workers", "/workers?all=true", "/tasks", "/tasks?state=held", "/task?id={held}"),
    *("/running", "/timeline?since=1d", "/failures", "/queues", "/audit", "/many?verb=recover"),
)
EVIL = '<img src=x onerror="alert(1)">\'"><script>alert(1)</script>{{7*7}}'


class Dom(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def look(client: TestClient, path: str, status: int = 200) -> Dom:
    answer = client.get(path)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return Dom(answer.text)


def said(dom: Dom) -> str:
    return " ".join(dom.text.split())


# -- what they say -----------------------------------------------------------


def test_triage_shows_what_needs_somebody_first(served: Served, scene: Scene) -> None:
    dom = look(served.browser(), "/")
    text = said(dom)
    titles = ["Died", "Needs a decision", "Recovering", "Quarantined"]
    places = [text.index(f"{title} ") for title in titles]
    assert places == sorted(places)
    assert "celery@two was lost" in text
    links = {one["href"] for one in dom.all("a")}
    for name in ("quarantined", "held", "not kept", "recovering"):
        assert f"/task?id={scene.ids[name]}" in links
    assert "1 task quarantined: crisper --registry URL tasks --state quarantined" in text


def test_triage_says_where_nobody_takes_what_is_brought_back(served: Served, scene: Scene) -> None:
    lost = Actor(scene.store, about={"queues": ["other"]})
    lost.runs("t", "m", queue="other", message=KEPT)
    lost.is_lost()
    told = "1 task recovering in other, and no live worker says that it consumes from there: crisper"
    assert told in said(look(served.browser(), "/"))
    assert told.removesuffix(": crisper") in said(look(served.browser(), "/queues"))


def test_workers_say_on_what_evidence_one_was_lost(served: Served) -> None:
    text = said(look(served.browser(), "/workers"))
    assert "celery@one" in text
    assert "lost: how: silence, by: sweeper" in text


def test_workers_tell_of_lease_slots_loop_version_and_who_leads(served: Served, scene: Scene) -> None:
    assert scene.store.campaign("sweeper", scene.one.id, scene.store.term("sweeper"))
    assert scene.store.renew(scene.one.fence, Pulse(0, 0, 312, {}))
    rows = re.findall(r"<tr id=.*?</tr>", served.browser().get("/workers").text, re.S)
    told = {row.split(maxsplit=1)[0]: row for row in (said(Dom(row)) for row in rows)}
    about = "prefork celery, mail 0.1.0 100"
    assert re.fullmatch(
        rf"celery@one leads alive \d+s of 3600s 1 of 8, 1 claimed 0.312 s {about} \d+s -", told["celery@one"]
    )
    assert re.search(r"^celery@two lost - 0 of ", told["celery@two"])


def test_who_decides_about_a_task_that_had_begun_is_told_what_that_means(
    served: Served, scene: Scene
) -> None:
    told = said(look(served.browser(), f"/task?id={scene.ids['held']}"))
    assert "To know before: it had begun: what a body has done already, it does again." in told
    told = said(look(served.browser(), f"/task?id={scene.ids['running']}"))
    assert "To know before: it is running: what its body has done already is not undone." in told


def test_tasks_are_filtered_by_their_address_and_page_on(served: Served, scene: Scene) -> None:
    browser = served.browser()
    dom = look(browser, "/tasks?state=held&state=quarantined&name=shop.*&limit=2")
    rows = [one["href"] for one in dom.all("a") if (one["href"] or "").startswith("/task?")]
    [older] = [one["href"] for one in dom.all("a") if one.get("rel") == "next"]
    rest = look(browser, str(older))
    rows += [one["href"] for one in rest.all("a") if (one["href"] or "").startswith("/task?")]
    waiting = {f"/task?id={scene.ids[name]}" for name in ("quarantined", "held", "not kept")}
    assert set(rows) == waiting
    assert "tasks --state held --state quarantined --name 'shop.*' --limit 2" in said(dom)


def test_tasks_are_searched_by_id_argument_and_time(served: Served, scene: Scene) -> None:
    browser, id = served.browser(), scene.ids["recovered"]
    for asked in ({"id": id[:9]}, {"id": id, "argument": "EUR", "since": "1h"}):
        dom = look(browser, f"/tasks?{urlencode(asked)}")
        assert [a["href"] for a in dom.all("a") if (a["href"] or "").startswith("/task?")] == [
            f"/task?id={id}"
        ]
        assert set(asked.items()) <= {(i["name"], i.get("value")) for i in dom.all("input")}
    text = said(look(browser, "/tasks?argument=EUR&until=2025-03-09T03:12"))
    assert "No such task is on record." in text
    assert "tasks --argument EUR --until 2025-03-09T03:12" in text
    assert "redacted and shortened" in text


def test_a_search_says_how_far_back_it_looked_and_goes_on(
    served: Served, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crisper.engine.looking.MOST", 3)
    browser = served.browser()
    dom = look(browser, "/tasks?argument=nowhere")
    assert "No such task is there. Looked at 3 attempts, back to 20" in said(dom)
    [further] = [a["href"] for a in dom.all("a") if a.get("rel") == "next"]
    assert "argument=nowhere" in str(further)
    assert look(browser, str(further)).text


def test_a_tasks_page_says_how_far_it_is(served: Served, scene: Scene) -> None:
    assert "3 of 7 412 MiB" in said(look(served.browser(), f"/task?id={scene.ids['running']}"))


def test_a_tasks_page_has_every_attempt_verdict_and_evidence(served: Served, scene: Scene) -> None:
    text = said(look(served.browser(), f"/task?id={scene.ids['recovered']}"))
    for told in (
        "#2",
        '[42, "x"]',
        "the reason of recovered",
        "acks_late: yes",
        "succeeded",
        "#1",
    ):
        assert told in text


def test_a_task_that_nobody_has_claimed_says_so(served: Served, scene: Scene) -> None:
    waiting = Published("m-waits", "waits", SCOPE, "shop.charge", "mail", 0, 3, KEPT, "[42]", "{}")
    scene.store.publish([waiting], due_in_ms=0)
    assert "no worker has claimed it" in said(look(served.browser(), "/task?id=waits"))


def test_search_finds_a_task_by_its_id_or_the_beginning_of_it(served: Served, scene: Scene) -> None:
    browser, id = served.browser(), scene.ids["held"]
    for wanted in (id, id[:12], f" {id} "):
        answer = browser.get("/search", params={"q": wanted})
        assert (answer.status_code, answer.headers["location"]) == (303, f"/task?id={id}")
    answer = browser.get("/search", params={"q": "shop.held"})
    assert answer.headers["location"] == "/tasks?name=%2Ashop.held%2A"
    assert "shop.held" in said(look(browser, answer.headers["location"]))
    assert browser.get("/search?q=").headers["location"] == "/tasks"
    assert browser.get("/search", params={"q": "//evil.example"}).headers["location"].startswith("/tasks?")


# -- nothing, and errors -----------------------------------------------------


def test_where_there_is_nothing_each_page_explains(serve: Any, sqlite_url: str) -> None:
    migrate.upgrade(sqlite_url)
    browser = serve(sqlite_url).browser()
    told = {
        "/": "No task waits for somebody to decide.",
        "/workers": "No worker is on record. Start one",
        "/tasks": "No task is on record yet.",
        "/tasks?state=held": "No such task is on record.",
    }
    for path, sentence in told.items():
        assert sentence in said(look(browser, path))


def test_without_a_registry_every_page_says_what_to_run(serve: Any, sqlite_url: str) -> None:
    browser = serve(sqlite_url).browser()
    for path in ("/", "/workers", "/tasks", "/task?id=x", "/search?q=something"):
        dom = look(browser, path, 503)
        assert "crisper migrate" in said(dom)
        assert [one for one in dom.all("p") if one.get("role") == "alert"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nowhere", 404),
        ("/task?id=none", 404),
        ("/tasks?limit=x", 400),
        ("/tasks?cursor=x", 400),
        ("/task?x=1", 400),
    ],
)
def test_an_error_is_a_page_with_a_sentence(served: Served, path: str, status: int) -> None:
    assert "Back to triage" in said(look(served.browser(), path, status))


def test_strangers_are_told_how_to_get_in(served: Served, served_elsewhere: Served) -> None:
    for path in ("/", "/tasks", "/nowhere"):
        assert "newest link" in said(look(served.stranger(), path, 401))
        dom = look(served_elsewhere.stranger(), path, 401)
        assert [one["data-post"] for one in dom.all("form")] == ["/api/v1/session"]
        assert not dom.all("nav")


def test_every_page_names_the_command_that_does_the_same(served: Served, scene: Scene) -> None:
    for path in PAGES:
        assert "The same on a terminal: crisper --registry URL " in said(
            look(served.browser(), path.format(**scene.ids))
        )


# -- deciding ----------------------------------------------------------------


def forms(dom: Dom) -> dict[str, dict[str, str | None]]:
    found = [one for one in dom.all("form") if (one.get("data-post") or "").startswith("/api/v1/")]
    return {str(one["data-post"]).split("/")[3]: one for one in found if one.get("data-state")}


def test_what_a_pages_form_says_is_what_the_api_takes(served: Served, scene: Scene) -> None:
    browser = served.browser()
    form = forms(look(browser, f"/task?id={scene.ids['held']}"))["discard"]
    saw = {"attempt": int(form["data-attempt"] or 0), "state": form["data-state"], "reason": "so"}
    assert browser.post(str(form["data-post"]), json=saw).status_code == 200
    assert browser.post(str(form["data-post"]), json=saw).status_code == 409
    assert "discarded" in said(look(browser, f"/task?id={scene.ids['held']}"))


def test_a_viewer_has_no_buttons_and_is_told_so(served_elsewhere: Served, scene: Scene) -> None:
    path = f"/task?id={scene.ids['held']}"
    dom = look(served_elsewhere.signed_in("vic"), path)
    assert "an operator may decide" in said(dom)
    assert len(dom.all("output")) == 0
    assert len(look(served_elsewhere.signed_in("ann"), path).all("output")) == 3


def test_what_cannot_be_done_now_says_why(served: Served, scene: Scene) -> None:
    text = said(look(served.browser(), f"/task?id={scene.ids['succeeded']}"))
    assert "Not now: it is over: its attempt 1 succeeded" in text


@pytest.mark.parametrize(
    "id", ["a/b", "../x", "a b", "a?b#c", "é", "recover", "a" * 700, '"><b>', "recover/x"]
)
def test_any_id_has_a_page_and_can_be_decided(served: Served, scene: Scene, id: str) -> None:
    scene.one.runs(id, f"message of {id[:20]}")
    browser = served.browser()
    form = forms(look(browser, f"/task?id={quote(id, safe='')}"))["stop"]
    answer = browser.post(str(form["data-post"]), json={"attempt": 1, "state": "running"})
    assert answer.json()["tasks"][0]["task_id"] == id


# -- hostile words -----------------------------------------------------------


@pytest.mark.parametrize("text", [EVIL, *HOSTILE, *INJECTIONS])
def test_hostile_words_are_text_on_every_page(served: Served, scene: Scene, text: str) -> None:
    about = {"pool": text, "concurrency": text, "queues": [text], "crisper": text}
    me = Actor(scene.store, hostname=text, about=about)
    me.runs(text, "a message", name=text, queue=text, args_preview=f'"{text}"', kwargs_preview=text)
    [task] = [one for one in served.browser().get("/api/v1/tasks?limit=100").json()["tasks"]
              if one["task_id"] not in scene.ids.values()]  # fmt: skip
    browser = served.browser()
    for path in (
        "/",
        "/workers",
        "/tasks",
        "/tasks?state=running",
        f"/task?id={quote(task['task_id'], safe='')}",
    ):
        answer = browser.get(path)
        assert answer.status_code == 200, answer.text[:2000]
        dom = Dom(answer.text)
        assert [one.get("src") for one in dom.all("script")] == ["/static/crisper.js"]
        assert not dom.all("img")
        assert not dom.all("b")
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", answer.text)
        assert len(answer.text) < 60_000
    look(browser, f"/tasks?name={quote(text[:400], safe='', errors='surrogatepass')}", 200)


@pytest.mark.parametrize("path", [*PAGES, "/nowhere"])
def test_no_page_holds_inline_script_or_style_or_loads_from_elsewhere(
    served: Served, scene: Scene, path: str
) -> None:
    answer = served.browser().get(path.format(**scene.ids))
    dom = Dom(answer.text)
    assert not dom.all("style")
    for tag, attributes in dom.tags:
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "action", "data-post"):
            value = attributes.get(name)
            assert value is None or value.startswith(("/", "#")), (tag, value)
            assert value is None or not value.startswith("//")
    assert "unsafe" not in answer.headers["content-security-policy"]


def test_our_own_files_load_nothing_from_elsewhere(served: Served) -> None:
    for file in (files("crisper.faces.serve") / "static").iterdir():
        answer = served.stranger().get(f"/static/{file.name}")
        assert answer.status_code == 200
        outside = answer.text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(
            r"https?://|@import|innerHTML|insertAdjacentHTML|document\.write|eval\(", outside
        )
    for path in ("/static/../pages.py", "/static/..%2fpages.py", "/static/none", "/static/%2e%2e%2fweb.py"):
        assert served.browser().get(path).status_code == 404


# -- for everybody -----------------------------------------------------------


@pytest.mark.parametrize("path", PAGES)
def test_a_page_can_be_read_without_seeing_it(served: Served, scene: Scene, path: str) -> None:
    text = served.browser().get(path.format(**scene.ids)).text
    dom = Dom(text)
    [root] = dom.all("html")
    assert root["lang"] == "en"
    assert len(dom.all("h1")) == len(dom.all("main")) == 1
    assert dom.all("a")[0]["href"] == "#main"
    ids = [attributes["id"] for _, attributes in dom.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    labelled = {one["for"] for one in dom.all("label")}
    for tag in ("input", "select"):
        assert all(one["id"] in labelled for one in dom.all(tag))
    assert len(dom.all("caption")) == len(dom.all("table"))
    assert all(one.get("scope") == "col" for one in dom.all("th"))
    assert 'name="viewport"' in text


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", [0, 1])
def test_every_colour_of_text_has_the_contrast_that_aa_asks_for(scheme: int) -> None:
    css = (files("crisper.faces.serve") / "static" / "style.css").read_text()
    colours = dict(re.findall(r"--(\w+): (#\w{6})", css.split(":root {")[scheme + 1].split("}")[0]))
    assert len(colours) == 10
    for back in ("back", "raised"):
        for text in ("text", "muted", "link", "green", "yellow", "red"):
            assert contrast(colours[text], colours[back]) >= 4.5, (text, back)
    assert contrast(colours["edge"], colours["back"]) >= 3


# -- live --------------------------------------------------------------------


def test_the_word_changes_when_something_does_and_only_then(
    served: Served, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.0)
    watch = Watch(registry_of(served))
    before = watch.word()
    assert watch.word() == before
    scene.one.runs(new_id(), "another message")
    assert watch.word() != before


def registry_of(served: Served) -> Any:
    [door] = [door for door in served.app._doors.all if door.path == "/"]
    return door.endpoint.__self__._registry  # type: ignore[attr-defined]


def test_a_stream_tells_of_a_change_and_ends_with_the_server(
    served: Served, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(live, "_TICK", 0.01)
    ending = threading.Event()
    stream = Live(registry_of(served), ending)

    async def listen() -> list[str]:
        heard = []
        async for part in stream._changes():
            assert stream.streams == 1
            heard.append(part)
            if len(heard) == 1:
                scene.one.runs(new_id(), "another message")
            else:
                ending.set()
        return heard

    heard = asyncio.run(asyncio.wait_for(listen(), 20))
    assert heard == [f"retry: 5000\n\n{live._CHANGED}", live._CHANGED]
    assert stream.streams == 0


def test_there_are_so_many_streams_and_no_more(served: Served) -> None:
    [door] = [door for door in served.app._doors.all if door.path == "/live"]
    door.endpoint.__self__.streams = live.STREAMS  # type: ignore[attr-defined]
    assert served.browser().get("/live").status_code == 503


def test_the_templates_trust_nothing() -> None:
    folder = Path(str(files("crisper.faces.serve") / "templates"))
    for template in folder.glob("*.html"):
        assert not re.search(r"\|\s*safe|Markup|autoescape", template.read_text()), template
