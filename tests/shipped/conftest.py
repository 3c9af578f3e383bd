"""The command line in this process."""

from tests.faces.conftest import run  # noqa: F401
