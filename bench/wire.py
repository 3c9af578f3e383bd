"""What one claim costs on the wire, by format; the figures behind the choice of marshal.

python bench/wire.py [--count 20000]
"""

from __future__ import annotations

import argparse
import json
import marshal
import pickle
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from crisper.recorder import wire

TASK = "5691013f-0c1d-4a7e-9f6a-1234567890ab"
HEADERS = {
    "lang": "py", "task": "proj.tasks.add", "id": TASK, "shadow": None, "eta": None, "expires": None,
    "group": None, "group_index": None, "retries": 0, "timelimit": [None, None], "root_id": TASK,
    "parent_id": None, "argsrepr": "(1, 2)", "kwargsrepr": "{}", "origin": "gen1@host",
    "ignore_result": False, "crisper_message_id": "0b5c4d9e8f7a4b6c9d0e1f2a3b4c5d6e",
}  # fmt: skip
PROPERTIES = {"correlation_id": TASK, "reply_to": TASK, "delivery_mode": 2, "priority": 0}
BODY = b'[[1, 2], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
CLAIM = (
    wire.CLAIM, 1, 1, TASK, HEADERS["crisper_message_id"], True, "proj.tasks.add", "celery", 0, False, True,
    False, TASK, "resend", 3, BODY, "application/json", "utf-8", HEADERS, PROPERTIES, "", "celery", False,
)  # fmt: skip


def microseconds(call: Callable[[], Any], count: int) -> float:
    """Of one call, the best of five runs."""
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(count):
            call()
        best = min(best, time.perf_counter() - began)
    return best / count * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    count = parser.parse_args().count
    as_text = [item.decode() if isinstance(item, bytes) else item for item in CLAIM]
    formats: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], Any]] = {
        "marshal": (marshal.dumps, marshal.loads, CLAIM),
        "json": (json.dumps, json.loads, as_text),
        "pickle 5": (lambda value: pickle.dumps(value, 5), pickle.loads, CLAIM),
    }
    print(f"{'one claim':<24}{'bytes':>8}{'write us':>10}{'read us':>10}")
    for name, (write, read, value) in formats.items():
        data = write(value)
        written, taken = microseconds(partial(write, value), count), microseconds(partial(read, data), count)
        print(f"{name:<24}{len(data):>8}{written:>10.2f}{taken:>10.2f}")
    ours, theirs = socket.socketpair()
    print("one claim, in frames of")
    for together in (1, 8, 64):
        # Marshal writes an object it has met before as a reference: every claim is its own.
        claims = [marshal.loads(marshal.dumps(CLAIM)) for _ in range(together)]
        runs = max(1, count // together)
        framed = microseconds(partial(wire.frame, claims), runs) / together
        sent = microseconds(partial(there, ours, theirs, wire.frame(claims)), runs) / together
        print(f"{together:>6}: frame {framed:.2f} us, send and receive {sent:.2f} us")


def there(ours: socket.socket, theirs: socket.socket, frame: bytes) -> None:
    """Through the socket pair, whole."""
    ours.sendall(frame)
    left = len(frame)
    while left:
        left -= len(theirs.recv(left))


if __name__ == "__main__":
    main()
