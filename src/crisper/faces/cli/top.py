"""`crisper top`."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from crisper.errors import RegistryError, SchemaMissing, SchemaOutdated, SchemaTooNew
from crisper.faces.cli.output import console
from crisper.faces.cli.place import Place
from crisper.faces.cli.text import clean, short_age

if TYPE_CHECKING:
    from rich.console import Console

    from crisper.engine.reading import Reading

#: Between two looks at the keyboard, and at the size of the window.
_KEYS_SECONDS = 0.2
#: The lines of a screen that is printed.
_PRINTED = 40


@click.command()
@click.option("--interval", type=click.FloatRange(0.2, 3600), default=2.0, show_default=True, metavar="S",
              help="Seconds between two looks.")  # fmt: skip
@click.option("--once", is_flag=True, help="Print one screen of 80 columns; so does a pipe.")
@click.pass_obj
def top(place: Place, interval: float, once: bool) -> None:
    """A live screen: workers, what runs, and what waits for a person.

    A worker's lease says how long ago it was renewed, and how long it is.
    What runs stands there the oldest first. q or Ctrl-C ends it. While the
    registry does not answer, the screen says so and shows what it knew.

    \b
    Examples:
      crisper -A proj top
      crisper -A proj top --interval 10
      crisper -A proj top --once
    """
    out = console(place)
    with place.reading() as reading:
        if once or not out.is_terminal or out.is_dumb_terminal:
            _print(out, reading)
        else:
            _live(out, _Watch(reading, interval))


def _print(out: Console, reading: Reading) -> None:
    from crisper.engine.top import top as look
    from crisper.faces.cli.output import WIDTH
    from crisper.faces.cli.screen import screen

    out.width = min(out.width, WIDTH)
    out.print(screen(look(reading), width=out.width, height=_PRINTED))


def _live(out: Console, watch: _Watch) -> None:
    from rich.live import Live

    from crisper.faces.cli.screen import screen

    with _keys() as ends, Live(console=out, screen=True, auto_refresh=False) as live:
        watch.start()
        drawn: tuple[Any, ...] = ()
        try:
            while not ends():
                shown, trouble = watch.now()
                if drawn != (drawn := (shown, trouble, out.size)):
                    width, height = out.size
                    live.update(screen(shown, width=width, height=height, trouble=trouble), refresh=True)
        finally:
            watch.over.set()


class _Watch(threading.Thread):
    """Asks the registry, so that the keyboard need not wait for it."""

    def __init__(self, reading: Reading, interval: float) -> None:
        super().__init__(name="crisper top", daemon=True)
        self.over = threading.Event()
        self._reading, self._interval = reading, interval
        self._shown: dict[str, Any] | None = None
        self._at = time.monotonic()
        self._trouble: str | None = "asking the registry"
        self._failed: Exception | None = None

    def now(self) -> tuple[dict[str, Any] | None, str]:
        """What was last seen, and what is wrong now. Raises what going on does not mend."""
        if self._failed is not None:
            raise self._failed
        trouble, shown = self._trouble, self._shown
        if trouble is None or shown is None:
            return shown, trouble or ""
        return shown, f"as it was {short_age(time.monotonic() - self._at)} ago: {trouble}"

    def run(self) -> None:
        from crisper.engine.top import top as look

        while True:
            try:
                self._shown, self._at, self._trouble = look(self._reading), time.monotonic(), None
            except RegistryError as exc:
                if self._shown is None and isinstance(exc, (SchemaMissing, SchemaOutdated, SchemaTooNew)):
                    self._failed = exc
                self._trouble = clean(exc, most=500)
            except Exception as exc:
                self._failed = exc
            if self._failed is not None or self.over.wait(self._interval):
                return


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[], bool]]:
    """Whether q was pressed within a moment, or the terminal is gone."""
    if not sys.stdin.isatty():
        yield _nobody_types
        return
    import termios
    import tty

    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)

    def ends() -> bool:
        if not select.select([keyboard], [], [], _KEYS_SECONDS)[0]:
            return False
        typed = os.read(keyboard, 64)
        return not typed or b"q" in typed.lower()

    tty.setcbreak(keyboard)
    try:
        yield ends
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _nobody_types() -> bool:
    time.sleep(_KEYS_SECONDS)
    return False
