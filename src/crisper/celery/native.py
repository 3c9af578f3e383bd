"""Parts of the standard library as they were before gevent or eventlet patched them.

The keeper must go on while every greenlet is busy, so it needs a real thread
that waits by real system calls.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

#: What eventlet calls the patches of these modules.
_EVENTLETS_WORD = {"_thread": "thread", "threading": "thread"}


def original(module: str, name: str) -> Any:
    """`module.name` unpatched."""
    if "gevent.monkey" in sys.modules:
        monkey = sys.modules["gevent.monkey"]
        if monkey.is_module_patched(module):
            return monkey.get_original(module, name)
    if "eventlet.patcher" in sys.modules:
        patcher = sys.modules["eventlet.patcher"]
        if patcher.is_monkey_patched(_EVENTLETS_WORD.get(module, module)):
            return getattr(patcher.original(module), name)
    return getattr(importlib.import_module(module), name)
