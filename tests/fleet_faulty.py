"""For a worker started with `--include tests.fleet_faulty`: methods of Crisper's own that raise.

FLEET_FAULTS names them, each with how often it raises (`always`, or a number): `claim=always,receive=3`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

from crisper.celery.courier import WorkerCourier
from crisper.celery.deliveries import Deliveries
from crisper.celery.link import Link

OWNERS: dict[str, type] = {"link_receive": Link, "courier_receive": WorkerCourier}


def _break(name: str, times: float) -> None:
    owner = OWNERS.get(name, Deliveries)
    attribute = name.removeprefix("link_").removeprefix("courier_")
    original: Callable[..., Any] = getattr(owner, attribute)
    left = [times]

    @functools.wraps(original)
    def raising(*args: Any, **kwargs: Any) -> Any:
        if left[0] > 0:
            left[0] -= 1
            raise RuntimeError(f"injected into {name}")
        return original(*args, **kwargs)

    setattr(owner, attribute, raising)


for fault in filter(None, os.environ.get("FLEET_FAULTS", "").split(",")):
    which, _, how_often = fault.partition("=")
    _break(which, float("inf") if how_often == "always" else float(how_often))
