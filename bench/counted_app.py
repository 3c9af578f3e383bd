"""The tests' app, with a worker that counts the calls which Crisper makes in its parent: for `guard.py`."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from celery import signals

from tests.fleet_app import app as app

calls: Counter[str] = Counter()
OWN = os.sep + "crisper" + os.sep


def count(frame: FrameType, event: str, argument: Any) -> None:
    """A call into a function of Crisper's, or from one into what is written in C."""
    if event in ("call", "c_call") and OWN in frame.f_code.co_filename:
        calls[f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}"] += 1


@signals.worker_ready.connect(weak=False)
def begin(**_: Any) -> None:
    sys.setprofile(count)


@signals.worker_shutdown.connect(weak=False)
def tell(**_: Any) -> None:
    sys.setprofile(None)
    Path(os.environ["FLEET_FOLDER"], "calls.json").write_text(json.dumps(calls))
