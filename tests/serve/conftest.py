"""`crisper serve` over a filled registry, asked as a browser, a program or a stranger would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from crisper.faces.cli.place import Place
from crisper.faces.serve.access import Role
from crisper.faces.serve.accounts import Account, Accounts, account
from crisper.faces.serve.guard import Guard
from crisper.faces.serve.names import Names
from crisper.faces.serve.registry import Registry
from crisper.faces.serve.web import Site, application
from tests.faces.scene import Scene

HERE = "http://127.0.0.1:8555"
ELSEWHERE = "http://10.1.2.3"
PASSWORD = "correct horse"


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with closing(Scene(f"sqlite:///{tmp_path}/registry.db")) as scene:
        yield scene


@dataclass
class Served:
    """One `crisper serve`. Clients of it share its sessions and accounts."""

    app: Guard
    tokens: list[str]
    base: str
    exit: ExitStack

    def stranger(self) -> TestClient:
        return TestClient(self.app, self.base, raise_server_exceptions=False, follow_redirects=False)

    def browser(self) -> TestClient:
        """Somebody who opened the link; state changes carry their token."""
        client = self.stranger()
        assert client.get("/enter", params={"token": self.tokens[-1]}).status_code == 303
        return self.with_token(client)

    def signed_in(self, name: str) -> TestClient:
        client = self.stranger()
        answer = client.post("/api/v1/session", json={"name": name, "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        return self.with_token(client)

    def with_token(self, client: TestClient) -> TestClient:
        id = client.cookies["crisper_session"]
        found = self.app._sessions.who(id)
        assert found is not None
        assert found.csrf is not None
        client.headers["X-CSRF-Token"] = found.csrf
        return client

    def program(self, name: str) -> TestClient:
        client = self.stranger()
        client.auth = (name, PASSWORD)
        return client


@pytest.fixture(scope="session")
def known() -> dict[str, Account]:
    roles = {"ann": Role.OPERATOR, "vic": Role.VIEWER}
    return {name: account(name, role, PASSWORD) for name, role in roles.items()}


@pytest.fixture
def accounts(known: dict[str, Account]) -> Accounts:
    return Accounts(known)


@pytest.fixture
def serve() -> Iterator[Any]:
    with ExitStack() as exit:

        def serve(url: str, host: str = "127.0.0.1", **more: Any) -> Served:
            registry = exit.enter_context(closing(Registry(Place(None, None, url, True))))
            tokens: list[str] = []
            app = application(Site(registry, Names(host), announce=tokens.append, **more))
            served = Served(app, tokens, HERE if host == "127.0.0.1" else ELSEWHERE, exit)
            exit.enter_context(served.stranger())
            return served

        yield serve


@pytest.fixture
def served(serve: Any, scene: Scene) -> Served:
    """On loopback, without accounts."""
    return serve(scene.url)


@pytest.fixture
def served_elsewhere(serve: Any, scene: Scene, accounts: Accounts) -> Served:
    """Beyond loopback, with ann, an operator, and vic, a viewer."""
    return serve(scene.url, "0.0.0.0", accounts=accounts)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/registry.db"
