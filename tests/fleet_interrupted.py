"""For a worker started with `--include tests.fleet_interrupted`: SIGQUIT comes at the worst moment.

Once the test has made a file `quit-amid-write` or `quit-amid-read`, it comes while the loop writes a frame
to RabbitMQ, or has read one by half. With `stand`, the loop stands still for as long as that file is there.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from amqp.transport import TCPTransport
from celery.signals import worker_ready

FOLDER = Path(os.environ.get("FLEET_FOLDER", "."))
HEADER_BYTES = 7


def quit_amid(what: str, transport: Any) -> None:
    if transport is consumers and (FOLDER / f"quit-amid-{what}").exists():
        (FOLDER / f"quit-amid-{what}").unlink()
        os.kill(os.getpid(), signal.SIGQUIT)


consumers: Any = None
write, read = TCPTransport.write, TCPTransport._read


def interrupted_write(transport: Any, frame: Any) -> Any:
    quit_amid("write", transport)
    return write(transport, frame)


def interrupted_read(transport: Any, n: int, *args: Any, **named: Any) -> Any:
    if n > HEADER_BYTES:
        quit_amid("read", transport)
    return read(transport, n, *args, **named)


TCPTransport.write, TCPTransport._read = interrupted_write, interrupted_read


@worker_ready.connect
def arm(sender: Any, **_: Any) -> None:
    def tick() -> None:
        if (FOLDER / "stand").exists():
            (FOLDER / "stands").touch()
        while (FOLDER / "stand").exists():
            time.sleep(0.01)

    global consumers
    consumers = sender.connection.connection.transport
    sender.controller.hub.on_tick.add(tick)
