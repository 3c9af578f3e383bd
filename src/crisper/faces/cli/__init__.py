"""The command line, behind two doors: `crisper -A proj …` and `celery -A proj crisper …`.

Importing it must stay cheap: commands import Celery, SQLAlchemy and the rest
only when they run, so that `crisper --help` answers at once.
"""

from crisper.faces.cli.group import cli

__all__ = ["cli"]
