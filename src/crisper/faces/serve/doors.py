"""What there is to ask for, and what each asks of whoever comes. What is not declared here is not there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from re import Pattern
from typing import Any

from starlette.routing import Route, compile_path

from crisper.faces.serve.access import Needs


@dataclass(frozen=True)
class Door:
    """One method of one path."""

    method: str
    path: str
    needs: Needs
    endpoint: Callable[..., Any]
    about: str  # one sentence, for people
    pattern: Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # A task's id may hold a line's end, which is no part of anything to Starlette.
        object.__setattr__(self, "pattern", re.compile(compile_path(self.path)[0].pattern, re.DOTALL))

    def route(self) -> Route:
        route = Route(self.path, self.endpoint, methods=[self.method])
        route.path_regex = self.pattern
        return route


class Doors:
    """All of them; the first that fits is the one."""

    def __init__(self, doors: Iterable[Door]) -> None:
        self.all = tuple(doors)

    def find(self, method: str, path: str) -> Door | None:
        method = "GET" if method == "HEAD" else method
        return next((door for door in self.at(path) if door.method == method), None)

    def at(self, path: str) -> list[Door]:
        return [door for door in self.all if door.pattern.match(path)]
