"""A server that is away for a while, and what a fleet tells where something fails meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fleet import Fleet
from tests.servers import PrivateServer


@contextmanager
def stopped(server: PrivateServer) -> Iterator[None]:
    server.stop()
    yield
    server.start()


@contextmanager
def crashed(server: PrivateServer) -> Iterator[None]:
    server.crash()
    yield
    server.start()


@contextmanager
def hung(server: PrivateServer) -> Iterator[None]:
    server.pause()
    yield
    server.resume()


@contextmanager
def talkative(folder: Path, **options: Any) -> Iterator[Fleet]:
    """A fleet whose story is printed where something is not as it should be."""
    fleet = Fleet(folder, **options)
    try:
        yield fleet
    except BaseException:
        print(fleet.story())
        raise
    finally:
        fleet.close()
