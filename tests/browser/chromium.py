"""A real Chromium, driven by Playwright; none is downloaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from tests.servers import Unavailable, program

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """With an empty profile of its own. Raises `Unavailable` where none is installed."""
    path = _path()
    with (
        sync_playwright() as driver,
        contextlib.closing(
            driver.chromium.launch(executable_path=path, args=[*FLAGS], chromium_sandbox=False)
        ) as browser,
    ):
        yield browser


def _path() -> str:
    for name in NAMES:
        with contextlib.suppress(Unavailable):
            return program(name)
    raise Unavailable(f"none of {', '.join(NAMES)} is installed")
