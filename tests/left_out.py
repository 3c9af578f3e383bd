"""What a run leaves out for want of a server is skipped, or fails if required, and is told at the end."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest

from tests.servers import Unavailable

REQUIRED = "CRISPER_REQUIRE_SERVERS"


class Missing:
    """The server that a test could not have."""

    def __init__(self, server: str, reason: str) -> None:
        super().__init__(f"left out: {server}: {reason}")
        self.server = server
        self.reason = reason


class Skipped(Missing, pytest.skip.Exception):
    pass


class Failed(Missing, pytest.fail.Exception):
    pass


@contextmanager
def needs(server: str, *, optional: bool = False) -> Iterator[None]:
    """A fixture that may find its server unavailable runs under this; `optional`: no run can require it."""
    try:
        yield
    except Unavailable as reason:
        failed = not optional and os.environ.get(REQUIRED, "") not in ("", "0")
        raise (Failed if failed else Skipped)(server, str(reason)) from None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.excinfo is not None and isinstance(missing := call.excinfo.value, Missing):
        # On the report, which reaches the summary from a worker process too.
        report.left_out = [missing.server, missing.reason]  # type: ignore[attr-defined]
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
    yield
    reports = [report for some in terminalreporter.stats.values() for report in some]
    left_out = Counter(tuple(report.left_out) for report in reports if hasattr(report, "left_out"))
    if left_out:
        terminalreporter.section("left out", yellow=True)
        for (server, reason), tests in left_out.items():
            count = f"{tests} test{'s' if tests != 1 else ''}"
            terminalreporter.line(f"left out: {server} ({count}): {reason}", yellow=True)
