"""A task's own resume point, on its way to the recorder: as a datagram, and, where asked for, with an answer.

The answer comes on a socket of its own that travels with the datagram. Should the recorder die with it in its
hands, the socket is closed, and the checkpoint goes to the next one.
"""

from __future__ import annotations

import json
import marshal
import select
import socket
import time
from typing import Any

from celery.utils.log import get_logger

from crisper.errors import CheckpointError
from crisper.recorder import wire

logger = get_logger(__name__)

#: Bytes of JSON that a checkpoint may take: one datagram, whatever the system. It is a place to go on from,
#: not the work done so far.
MOST_BYTES = 32_768
#: How long one that nobody waits for may wait for room on its way to the recorder, in seconds.
ROOM_SECONDS = 1.0
#: Before the next recorder is told what one that died had not kept, in seconds.
AGAIN_SECONDS = 0.05


def as_text(data: Any) -> str:
    """Raises `CheckpointError` for what is no JSON, or too much of it."""
    try:
        text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as exc:
        raise CheckpointError(
            f"a checkpoint is JSON (None, numbers, text, lists, and dicts with text for keys): {exc}"
        ) from None
    if len(text) > MOST_BYTES:
        raise CheckpointError(
            f"a checkpoint of {len(text):,} bytes is more than {MOST_BYTES:,}; keep what is large where it"
            " belongs, and in the checkpoint the place where it is"
        )
    return text


def send(words: socket.socket, item: tuple[Any, ...]) -> None:
    """On its way, to be written within a moment. If the recorder has no room for so long, that is logged."""
    try:
        _send(words, marshal.dumps(item), (), time.monotonic() + ROOM_SECONDS)
    except OSError as exc:
        if exc.errno is None:  # raised by a signal handler of the task's own
            raise
        logger.error("crisper: a checkpoint of %s is not kept: %r", item[2], exc)


def send_and_wait(words: socket.socket, item: tuple[Any, ...], seconds: float) -> str:
    """Where it is safe now: `registry`, or `journal`, on this host's disk. Raises `CheckpointError`."""
    give_up = time.monotonic() + seconds
    data = marshal.dumps(item)
    while (left := give_up - time.monotonic()) > 0:
        mine, theirs = socket.socketpair()
        with mine:
            with theirs:
                try:
                    _send(words, data, (theirs.fileno(),), give_up)
                except OSError as exc:
                    if exc.errno is None:
                        raise
                    break
            if not select.select([mine], [], [], left)[0]:
                break
            answer = mine.recv(64).decode()
        if answer == "late":
            raise CheckpointError(
                "this attempt is over, or fenced: its worker was declared lost, and another attempt goes on"
                " from an earlier checkpoint. Let the task end; what it still does changes nothing"
            )
        if answer:
            return answer
        time.sleep(AGAIN_SECONDS)
    raise CheckpointError(
        f"the checkpoint is not on record after {seconds:g} s: the registry does not answer, and no journal"
        " stands in for it. Check the worker's log, crisper_registry_url and crisper_on_registry_down, or ask"
        " for no durable=True: it then goes on record as soon as that is possible"
    )


def _send(words: socket.socket, data: bytes, fds: tuple[int, ...], give_up: float) -> None:
    """A socket holds some ten datagrams: more than that the recorder has to take in meanwhile."""
    while True:
        try:
            if fds:
                socket.send_fds(words, [data], list(fds))
            else:
                words.send(data)
            return
        except BlockingIOError:
            left = give_up - time.monotonic()
            if left <= 0 or not select.select([], [words], [], left)[1]:
                raise


def item_of(seq: int, task_id: str, text: str, waits: bool) -> tuple[Any, ...]:
    return wire.CHECKPOINT, seq, task_id, text, waits
