"""What is shipped, with its blanks filled in."""

from __future__ import annotations

import re
from importlib import resources
from typing import NamedTuple

from crisper.errors import SettingsError

#: By what they are for.
TEMPLATES = {
    "prometheus": "prometheus.yml",
    "grafana": "grafana.json",
    "kubernetes": "kubernetes.yaml",
    "systemd": "celery-worker.service",
    "compose": "compose.yaml",
}

#: Those name the app.
STARTS_WORKERS = ("kubernetes", "systemd", "compose")

#: What an app's name may be made of: nothing that YAML or systemd would read otherwise.
_APP = re.compile(r"[A-Za-z_][\w.]*(:[A-Za-z_][\w.]*)?", re.ASCII)
#: A successor leads after a lease.
LEASES, LEAST_SILENCE = 3, 60


class Blanks(NamedTuple):
    app: str
    grace: int  # seconds from SIGTERM to SIGKILL
    lease: float


def filled(what: str, blanks: Blanks) -> str:
    """Raises `SettingsError` for an app's name that would break the file."""
    if not _APP.fullmatch(blanks.app):
        raise SettingsError(f"-A {blanks.app!r} cannot stand in such a file; write package.module:attribute")
    text = resources.files(__package__).joinpath("templates", TEMPLATES[what]).read_text("utf-8")
    silence = max(LEAST_SILENCE, round(LEASES * blanks.lease))
    words = {"@APP@": blanks.app, "@GRACE@": str(blanks.grace), "@SILENCE@": str(silence)}
    return re.sub("|".join(words), lambda found: words[found[0]], text)
