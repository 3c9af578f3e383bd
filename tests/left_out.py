"""What a run leaves out for want of a server is skipped, or fails if required, and is told at the end."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest

from tests.servers import Unavailable

REQUIRED = "CRISPER_REQUIRE_SERVERS"
_left_out = pytest.StashKey[Counter["Missing"]]()


class Missing:
    """The server that a test could not have. Two that are equal are one line of the report."""

    def __init__(self, server: str, reason: str) -> None:
        super().__init__(f"left out: {server}: {reason}")
        self.server = server
        self.reason = reason

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Missing) and (self.server, self.reason) == (other.server, other.reason)

    def __hash__(self) -> int:
        return hash((self.server, self.reason))


class Skipped(Missing, pytest.skip.Exception):
    pass


class Failed(Missing, pytest.fail.Exception):
    pass


@contextmanager
def needs(server: str) -> Iterator[None]:
    """A fixture that may find its server unavailable runs under this."""
    try:
        yield
    except Unavailable as reason:
        failed = os.environ.get(REQUIRED, "") not in ("", "0")
        raise (Failed if failed else Skipped)(server, str(reason)) from None


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    if call.excinfo is not None and isinstance(missing := call.excinfo.value, Missing):
        item.config.stash.setdefault(_left_out, Counter())[missing] += 1


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Generator[None, None, None]:
    yield
    if left_out := config.stash.get(_left_out, None):
        terminalreporter.section("left out", yellow=True)
        for missing, tests in left_out.items():
            count = f"{tests} test{'s' if tests != 1 else ''}"
            terminalreporter.line(f"left out: {missing.server} ({count}): {missing.reason}", yellow=True)
