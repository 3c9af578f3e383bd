"""Stacks as text, the innermost frame first: as faulthandler and py-spy write them, and as we do. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import takewhile

#: Of a stack that is kept.
MOST_BYTES = 16_384

#: A frame in this file runs the body of a task.
BODY = ("celery/app/trace.py", "celery\\app\\trace.py")

#: Code that speaks to a broker, and waits for one that is away.
_BROKERS = re.compile(r"[/\\](amqp|redis|kombu[/\\](transport|connection\.py|utils[/\\]functional\.py))")
_STDLIB = re.compile(r"[/\\]lib[/\\]python[\d.]+[/\\](?!site-packages|dist-packages)|<frozen")
_FAULTHANDLER = re.compile(r'^\s*File "(?P<file>.+)", line (?P<line>\d+) in (?P<name>.+)$')
_PY_SPY = re.compile(r"^\s+(?P<name>\S.*) \((?P<file>.+):(?P<line>\d+)\)$")
_THREAD = re.compile(r"^(Current thread|Thread) ", re.IGNORECASE)
_LIBRARY = re.compile(
    r"[/\\](site-packages|dist-packages|lib[/\\]python\d|crisper[/\\](celery|recorder)[/\\])|<frozen"
)


def holds_a_body(stack: str) -> bool:
    """Whether any thread runs the body of a task."""
    return any(path in stack for path in BODY)


def bodies(stack: str) -> int:
    """How many threads run one."""
    return sum(holds_a_body("\n".join(thread)) for thread in _threads(stack.splitlines()))


def waits_for_a_broker(stack: str) -> bool:
    """Whether the main thread, by its innermost frame that is not Python's own, speaks to a broker."""
    main = next(iter(list(_threads(stack.splitlines()))[::-1]), [])
    files = [found["file"] for line in main if (found := _FAULTHANDLER.match(line) or _PY_SPY.match(line))]
    return bool(_BROKERS.search(next((file for file in files if not _STDLIB.search(file)), "")))


def where(stack: str) -> str:
    """Where it stands, as `file:line, in function`: the innermost frame that is no library's, of the thread
    that runs a body, or of the main one; empty if the text tells no frame."""
    frames = [found for line in _thread(stack) if (found := _FAULTHANDLER.match(line) or _PY_SPY.match(line))]
    own = next((one for one in frames if not _LIBRARY.search(one["file"])), frames[0] if frames else None)
    return "" if own is None else f"{own['file']}:{own['line']}, in {own['name']}"


def essence(stack: str) -> list[str]:
    """What people want to see of it: the lines of that thread, from the innermost down to its body's."""
    return list(takewhile(lambda line: not holds_a_body(line), _thread(stack)))


def _thread(stack: str) -> list[str]:
    threads = list(_threads(stack.splitlines()))
    return next((one for one in threads if holds_a_body("\n".join(one))), threads[-1] if threads else [])


def _threads(lines: list[str]) -> Iterator[list[str]]:
    """The lines of each thread; the main one is the last."""
    thread: list[str] = []
    for line in lines:
        if _THREAD.match(line) and thread:
            yield thread
            thread = []
        thread.append(line)
    if thread:
        yield thread


def bounded(stack: str) -> str:
    """Its beginning, where it is too long to keep."""
    raw = stack.encode("utf-8", "backslashreplace")
    return stack if len(raw) <= MOST_BYTES else raw[:MOST_BYTES].decode("utf-8", "ignore") + "\n…"
