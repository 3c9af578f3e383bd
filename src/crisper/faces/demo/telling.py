"""What people see while a round is played: a moving line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING

from crisper.faces.demo.ledger import Ledger

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

_SIGNS = {
    "packed": ("■", "green"),
    "packing": ("▶", "yellow"),
    "waiting": ("·", "dim"),
    "cut off": ("✗", "red"),
}


class Telling:
    """Sentences with the seconds since the round began, and one sign for each order."""

    def __init__(self, console: Console, title: str, total: int) -> None:
        self._console, self._total = console, total
        self._began = time.monotonic()
        self._dead: set[str] = set()
        self._cut_off: dict[str, float] = {}  # task id to the moment of the kill, until it runs again
        self._live: Live | None = None
        self._packed = 0
        console.print()
        console.print(title, style="bold")

    def __enter__(self) -> Telling:
        if self._console.file.isatty() and not self._console.is_dumb_terminal:
            from rich.live import Live

            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, sentence: str, style: str = "") -> None:
        self._console.print(f"{time.monotonic() - self._began:5.1f} s  {sentence}", style=style)

    def killed(self, worker: str, pid: int, at: float, order_of: dict[str, int], evidence: str) -> None:
        """`order_of`: the orders that it was packing."""
        self._dead.add(worker)
        self._cut_off = dict.fromkeys(order_of, at)
        self.say(f"{evidence}: {worker} packs {_orders(order_of.values())}")
        self.say(f"kill -9 {pid}: {worker} is dead", style="red")

    def progress(self, ledger: Ledger, order_of: dict[str, int]) -> None:
        states = self._states(ledger, order_of)
        self._tell_who_runs_again(ledger, order_of)
        if self._live is not None:
            self._live.update(self._line(states), refresh=True)
            return
        packed = states.count("packed")
        if packed != self._packed:
            self._packed = packed
            self.say(f"{packed} of {self._total} packed")

    def _tell_who_runs_again(self, ledger: Ledger, order_of: dict[str, int]) -> None:
        again = {
            id: line.at - at for id, at in self._cut_off.items() for line in ledger.starts(id) if line.at > at
        }
        if again:
            self._cut_off = {id: at for id, at in self._cut_off.items() if id not in again}
            orders = _orders(order_of[id] for id in again)
            self.say(f"{max(again.values()):.1f} s after the kill: {orders} again", style="green")

    def _states(self, ledger: Ledger, order_of: dict[str, int]) -> list[str]:
        ended, begun, running = ledger.ended(), ledger.begun(), ledger.running()
        alive = {line.task_id for name, lines in running.items() if name not in self._dead for line in lines}
        known = [
            "packed" if id in ended else "packing" if id in alive else "cut off" if id in begun else "waiting"
            for id in order_of
        ]
        return known + ["waiting"] * (self._total - len(known))

    def _line(self, states: list[str]) -> Text:
        from rich.text import Text

        line = Text(f"{time.monotonic() - self._began:5.1f} s  ")
        for state in states:
            sign, style = _SIGNS[state]
            line.append(f"{sign} ", style=style)
        counts = [f"{states.count(state)} {state}" for state in _SIGNS if state in states]
        return line.append("  " + ", ".join(counts), style="dim")


def _orders(orders: Iterable[int]) -> str:
    numbers = sorted(orders)
    if len(numbers) == 1:
        return f"order {numbers[0]}"
    return f"orders {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
