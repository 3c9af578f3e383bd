"""The thread that keeps the worker's sign of life fresh, for `crisper-probe`.

A thread of its own: a disk that hangs must hold up no record, and a registry that hangs no sign.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from crisper.engine import sign
from crisper.engine.sign import Sign

EVERY_SECONDS = 1.0


class SignThread(threading.Thread):
    """Writes what `look` says until it is stopped. `trouble` is told once why it cannot."""

    def __init__(
        self, folder: str, name: str, look: Callable[[], Sign | None], trouble: Callable[[str], None]
    ) -> None:
        super().__init__(name="crisper-sign", daemon=True)
        self._folder, self._name, self._look, self._trouble = folder, name, look, trouble
        self._stopped, self._troubled = threading.Event(), False
        self._writing = threading.Lock()

    def run(self) -> None:
        self._guarded(self._begin)
        while not self._stopped.is_set():
            self._guarded(self._write)
            self._stopped.wait(EVERY_SECONDS)

    def end(self) -> None:
        """No more signs, and the last one is taken away."""
        self._stopped.set()
        if self._writing.acquire(timeout=EVERY_SECONDS):  # else the disk hangs: the sign grows old by itself
            sign.remove(self._folder, self._name)
            self._writing.release()

    def _begin(self) -> None:
        sign.make_folder(self._folder)
        sign.forget_old(self._folder)

    def _write(self) -> None:
        with self._writing:
            said = self._look()
            if said is not None and not self._stopped.is_set():
                sign.write(self._folder, self._name, said)
                self._troubled = False

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except OSError as exc:
            if not self._troubled:
                self._troubled = True
                self._trouble(
                    f"crisper-probe will not find this worker: its sign of life cannot be written: {exc}."
                    " Set crisper_probe_dir to a folder that is this user's alone"
                )
