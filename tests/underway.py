"""A run that is cut short says which tests were underway, and for how long: so a hang names its test."""

from __future__ import annotations

import time

import pytest


class Underway:
    """What runs now, in this process or in its workers."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._ended = 0
        self._cut_short = False

    def pytest_keyboard_interrupt(self) -> None:
        self._cut_short = True

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._since[nodeid] = time.monotonic()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._since.pop(nodeid, None)
        self._ended += 1

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._cut_short:
            return
        terminalreporter.section(f"cut short after {self._ended} tests", red=True)
        for nodeid, since in self._since.items():
            terminalreporter.line(f"underway for {time.monotonic() - since:.0f} s: {nodeid}", red=True)
        if not self._since:
            terminalreporter.line("no test was underway: a worker was starting or ending", red=True)
