"""The command line in this process, and a `crisper serve` to scrape."""

from tests.faces.conftest import run  # noqa: F401
from tests.serve.conftest import scene, serve, served  # noqa: F401
