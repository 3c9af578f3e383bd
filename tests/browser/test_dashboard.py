"""The dashboard in a real browser: what an operator sees and does at three in the morning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, Page, expect

from crisper.core.states import VerdictKind
from crisper.faces.serve import live
from crisper.faces.serve.access import Needs
from tests.browser.chromium import chromium
from tests.browser.site import PASSWORD, Open, serving
from tests.faces.scene import KEPT, Scene, new_id
from tests.fleet import Fleet, wait_for
from tests.left_out import needs
from tests.store.acting import SCOPE, Actor

#: Of every page: where it can be looked at with something on it.
LOOK = {
    "/": "/",
    "/workers": "/workers?all=true",
    "/tasks": "/tasks?name=shop.*",
    "/task": "/task?id={quarantined}",
    "/running": "/running",
    "/timeline": "/timeline?since=1d",
    "/failures": "/failures",
    "/queues": "/queues",
    "/audit": "/audit",
    "/many": "/many?verb=recover",
}
#: They lead to another page.
LEADS_ON = {"/search"}
SCHEMES = ("light", "dark")
PHONE = {"width": 380, "height": 700}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with needs("chromium"), chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with closing(Scene(f"sqlite:///{tmp_path_factory.mktemp('scene')}/registry.db")) as scene:
        yield scene


@pytest.fixture(scope="module", autouse=True)
def looks_often() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "LOOK_SECONDS", 0.2)
        yield


@pytest.fixture(scope="module")
def site(scene: Scene) -> Iterator[Open]:
    with serving(scene.url) as site:
        yield site


def addresses(site: Open, scene: Scene) -> list[str]:
    """Of every page that there is; one that is not in `LOOK` fails here."""
    pages = {
        door.path
        for door in site.doors
        if door.method == "GET"
        and door.needs is Needs.VIEWER
        and not door.path.startswith(("/api/", "/live"))
    }
    assert pages - LEADS_ON == set(LOOK)
    return [LOOK[path].format(**scene.ids) for path in sorted(LOOK)]


def waits_for_a_person(scene: Scene, verdict: VerdictKind, name: str = "shop.refund") -> str:
    """A task of its own for a test that decides about it."""
    worker, id = Actor(scene.store, hostname="celery@four"), new_id()
    worker.runs(id, f"message of {id}", name=name, message=KEPT)
    worker.is_lost()
    [case] = [c for c in scene.store.take_cases("c", SCOPE, limit=100) if c.recovery.task_id == id]
    assert scene.store.decide(case.recovery, verdict, "a reason", {"losses": 4}, by="celery@one")
    return id


def state_of(scene: Scene, id: str) -> str:
    case = scene.store.case(id, 1)
    assert case is not None
    return f"{case.recovery.state}"


def was_not_loaded_again(page: Page) -> bool:
    return bool(page.evaluate("window.mark === 1"))


# -- by itself ---------------------------------------------------------------


def test_a_death_on_record_appears_on_an_open_page_by_itself(
    browser: Browser, site: Open, scene: Scene
) -> None:
    worker = Actor(scene.store, hostname="celery@just-died")
    worker.runs(new_id(), "its message", name="shop.parcel")
    with site.page(browser, "/") as page:
        page.evaluate("window.mark = 1")
        expect(page.get_by_text("celery@just-died")).to_have_count(0)
        worker.is_lost()
        expect(page.locator("#triage").get_by_text("celery@just-died").first).to_be_visible()
        assert was_not_loaded_again(page)


def test_a_worker_that_is_really_killed_appears_on_an_open_page_by_itself(
    browser: Browser, tmp_path: Path
) -> None:
    with closing(Fleet(tmp_path)) as fleet, serving(fleet.registry_url) as site:
        worker = fleet.worker("first", "-c", "1")
        sent = fleet.send("late", 1, 30).id
        wait_for("running on record", lambda: fleet.attempts(sent) == [(1, "running")])
        with site.page(browser, "/") as page:
            page.evaluate("window.mark = 1")
            worker.kill()
            expect(page.get_by_role("link", name="first@test")).to_be_visible()
            expect(page.locator("#triage")).to_contain_text("was lost")
            assert was_not_loaded_again(page)


# -- deciding ----------------------------------------------------------------


def test_an_operator_recovers_a_quarantined_task(browser: Browser, site: Open, scene: Scene) -> None:
    id = waits_for_a_person(scene, VerdictKind.QUARANTINE)
    with site.page(browser, "/") as page:
        page.locator(f'a[href="/task?id={id}"]').click()
        page.get_by_label("Reason").first.fill("the disk is fixed")
        page.get_by_role("button", name="Run it again").click()
        expect(page.locator("form.act output").first).to_have_text(
            "decided; a live worker of its app sends it"
        )
        expect(page.locator("#task .facts .state")).to_have_text("recovering")
        expect(page.locator("#task")).to_contain_text("the disk is fixed")
    assert state_of(scene, id) == "decided"


def test_a_viewer_sees_no_button_and_is_refused_without_one(
    browser: Browser, site: Open, scene: Scene
) -> None:
    id = waits_for_a_person(scene, VerdictKind.QUARANTINE)
    with site.page(browser, f"/task?id={id}", "vic") as page:
        expect(page.locator("#decide")).to_contain_text("an operator may decide")
        expect(page.locator("#decide button")).to_have_count(0)
        status = page.evaluate(
            """async (id) => (await fetch(`/api/v1/recover/${id}`, {
                method: "POST", body: JSON.stringify({attempt: 1, state: "quarantined"}),
                headers: {"Content-Type": "application/json",
                          "X-CSRF-Token": document.querySelector("meta[name=csrf]").content},
            })).status""",
            id,
        )
    assert (status, state_of(scene, id)) == (403, "quarantined")


def test_a_page_that_is_stale_by_now_is_refused_and_says_so(
    browser: Browser, site: Open, scene: Scene
) -> None:
    id = waits_for_a_person(scene, VerdictKind.HOLD)
    with site.page(browser, f"/task?id={id}") as page:
        page.get_by_label("Reason").first.fill("as I saw it")
        assert scene.store.discard(id, by="bob@desk", reason="somebody was faster")
        page.get_by_role("button", name="Run it again").click()
        expect(page.locator("form.act output").first).to_contain_text("look at it again")
        expect(page.locator("#task .facts .state")).to_have_text("discarded")
        expect(page.locator("#decide")).to_contain_text("held")  # on what was seen
    assert state_of(scene, id) == "done"


def test_many_are_looked_at_first_and_then_done_as_they_were_shown(
    browser: Browser, site: Open, scene: Scene
) -> None:
    ids = [waits_for_a_person(scene, VerdictKind.HOLD, "shop.many") for _ in range(2)]
    with site.page(browser, "/many?verb=discard&name=shop.many") as page:
        expect(page.locator("#many li").first).to_have_text("Close for good 2: shop.many, held")
        page.get_by_label("Reason").fill("cancelled")  # from now on it stands as they saw it
        later = waits_for_a_person(scene, VerdictKind.HOLD, "shop.many")
        assert scene.store.discard(ids[0], by="bob@desk", reason="somebody was faster")
        button = page.get_by_role("button", name="Close for good: 2 tasks")
        page.get_by_label("Type 2 to confirm").fill("3")
        button.click()  # the browser asks for the right number
        assert state_of(scene, ids[1]) == "held"
        page.get_by_label("Type 2 to confirm").fill("2")
        button.click()
        expect(page.locator("form.act output")).to_contain_text("1 of 2: is closed for good")
        expect(page.locator("form.act output")).to_contain_text("look at it again")
    assert [state_of(scene, id) for id in (*ids, later)] == ["done", "done", "held"]


def test_many_pages_of_one_browser_all_answer_and_all_are_told(
    browser: Browser, site: Open, scene: Scene
) -> None:
    """A browser has six connections to a site; who listens for changes keeps one of them."""
    with closing(site.signed_in(browser)) as context:
        pages = [context.new_page() for _ in range(9)]
        for page in pages:
            page.set_default_timeout(10_000)
            page.goto("/tasks?name=shop.late")
            expect(page.locator("#tasks")).to_contain_text("No such task")
        pages[0].close()  # it was the one that listens
        waits_for_a_person(scene, VerdictKind.HOLD, "shop.late")
        for page in pages[1:]:
            expect(page.locator("#tasks")).to_contain_text("shop.late")


def test_ages_grow_though_nothing_happens(browser: Browser, site: Open, scene: Scene) -> None:
    with site.page(browser, "/workers") as page:
        row = page.locator("#workers tr", has_text="celery@one").first
        before = row.locator("td[data-label=lease]").inner_text()
        expect(row.locator("td[data-label=lease]")).not_to_have_text(before, timeout=20_000)


# -- for everybody -----------------------------------------------------------


def focused(page: Page) -> dict[str, Any]:
    told: dict[str, Any] = page.evaluate(
        """() => { const one = document.activeElement, style = getComputedStyle(one);
            const box = one.getBoundingClientRect();
            return {tag: one.tagName, words: one.textContent.trim(), name: one.name || "",
                    ring: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
                    seen: box.width > 0 && box.height > 0 && box.right > 0 && box.bottom > 0}; }"""
    )
    return told


def tab_to(page: Page, words: str, most: int = 60) -> None:
    """By Tab alone; whatever has the focus on the way shows it."""
    for _ in range(most):
        page.keyboard.press("Tab")
        here = focused(page)
        assert here["tag"] == "BODY" or (here["ring"] and here["seen"]), here
        if words in (here["words"], here["name"]):
            return
    raise AssertionError(f"Tab never comes to {words}")


def test_all_of_it_goes_by_keyboard_and_the_focus_is_seen(browser: Browser, site: Open, scene: Scene) -> None:
    id = waits_for_a_person(scene, VerdictKind.HOLD)
    with closing(browser.new_context(base_url=site.base)) as context:
        page = context.new_page()
        page.goto("/")
        for name, text in (("name", "ann"), ("password", PASSWORD)):
            tab_to(page, name)
            page.keyboard.type(text)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Triage")).to_be_visible()
        tab_to(page, "Skip to the content")
        page.keyboard.press("Enter")
        assert focused(page)["tag"] == "MAIN"
        page.keyboard.press("/")
        page.keyboard.type(id)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="shop.refund")).to_be_visible()
        tab_to(page, "reason")
        tab_to(page, "reason")
        page.keyboard.type("cancelled")
        tab_to(page, "Close it for good")
        page.keyboard.press("Enter")
        expect(page.locator("#task .facts .state")).to_have_text("discarded")
    assert state_of(scene, id) == "done"


def lightness(page: Page, property: str) -> float:
    """0 is black, 1 is white."""
    text = page.evaluate(f"getComputedStyle(document.body).{property}")
    return sum(int(part) for part in text[text.index("(") + 1 : -1].split(",")[:3]) / 765


def test_dark_and_light_follow_the_system(browser: Browser, site: Open) -> None:
    with site.page(browser, "/", color_scheme="dark") as page:
        assert lightness(page, "backgroundColor") < 0.2 < 0.7 < lightness(page, "color")
        page.emulate_media(color_scheme="light")
        assert lightness(page, "backgroundColor") > 0.9 > 0.3 > lightness(page, "color")


def test_nothing_is_wider_than_a_phone(browser: Browser, site: Open, scene: Scene) -> None:
    with site.page(browser, "/", viewport=PHONE) as page:
        for address in addresses(site, scene):
            page.goto(address)
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= PHONE["width"], (address, wide)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_finds_nothing_serious(browser: Browser, site: Open, scene: Scene, scheme: str) -> None:
    with site.page(browser, "/", color_scheme=scheme) as page:
        for address in (*addresses(site, scene), "/nowhere"):
            page.goto(address)
            assert serious(page) == [], address
    with closing(browser.new_context(base_url=site.base, color_scheme=scheme)) as context:
        page = context.new_page()
        page.goto("/")
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        assert serious(page) == []


def serious(page: Page) -> list[tuple[str, list[Any]]]:
    page.evaluate(AXE_SCRIPT)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        (one["id"], [node["html"] for node in one["nodes"]])
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]
