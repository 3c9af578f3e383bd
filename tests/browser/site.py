"""`crisper serve` on a port of its own, in a thread, with an operator and a viewer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page

from crisper.faces.cli.place import Place
from crisper.faces.serve.access import Role
from crisper.faces.serve.accounts import Accounts, account
from crisper.faces.serve.doors import Door
from crisper.faces.serve.guard import COOKIE
from crisper.faces.serve.names import Names
from crisper.faces.serve.registry import Registry
from crisper.faces.serve.web import Site, application
from tests.fleet import wait_for
from tests.servers import HOST, free_port

PASSWORD = "correct horse"
PEOPLE = {"ann": Role.OPERATOR, "vic": Role.VIEWER}


@dataclass
class Open:
    """A site that is being served."""

    base: str
    doors: tuple[Door, ...]
    sessions: dict[str, str] = field(default_factory=dict)  # of those who have signed in

    def signed_in(self, browser: Browser, name: str = "ann", **how: Any) -> BrowserContext:
        """A browser of that person's; each signs in once."""
        if name not in self.sessions:
            told = {"name": name, "password": PASSWORD}
            answer = httpx.post(f"{self.base}/api/v1/session", json=told)
            self.sessions[name] = answer.cookies[COOKIE]
        context = browser.new_context(base_url=self.base, **how)
        context.add_cookies([{"name": COOKIE, "value": self.sessions[name], "url": self.base}])
        return context

    @contextmanager
    def page(self, browser: Browser, path: str, name: str = "ann", **how: Any) -> Iterator[Page]:
        with closing(self.signed_in(browser, name, **how)) as context:
            page = context.new_page()
            page.set_default_timeout(10_000)
            page.goto(path)
            yield page


@contextmanager
def serving(url: str) -> Iterator[Open]:
    with ExitStack() as exit:
        registry = exit.enter_context(closing(Registry(Place(None, None, url, True))))
        known = {name: account(name, role, PASSWORD) for name, role in PEOPLE.items()}
        site = Site(registry, Names(HOST), Accounts(known))
        app, port = application(site), free_port()
        server = uvicorn.Server(
            uvicorn.Config(app, host=HOST, port=port, http="h11", ws="none", log_level="warning")
        )
        thread = threading.Thread(target=server.run, name="crisper-serve-test", daemon=True)
        thread.start()
        wait_for("it listens", lambda: server.started)
        try:
            yield Open(f"http://{HOST}:{port}", app._doors.all)
        finally:
            site.ending.set()
            server.should_exit = True
            thread.join(10)
