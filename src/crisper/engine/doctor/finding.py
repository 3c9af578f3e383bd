"""What a check is, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

from crisper.engine.doctor.facts import Facts


class Level(StrEnum):
    ERROR = "error"  # tasks are lost, run twice or loop, or anybody may run code
    WARNING = "warning"
    OK = "ok"  # there was evidence, and it is as it should be


class Said(NamedTuple):
    """One hazard, in sentences; `fix` is the line that cures it."""

    title: str
    why: str
    fix: str


class Finding(NamedTuple):
    id: str
    level: Level
    title: str
    why: str
    fix: str


class Check(NamedTuple):
    """`look` returns None where there is no evidence either way, and an empty sequence where all is well."""

    id: str
    level: Level
    what: str  # the hazard, as the reference has it
    cure: str
    look: Callable[[Facts], Sequence[Said] | None]
