"""Where a command works: which app, which settings, which registry."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from crisper.errors import SettingsError

if TYPE_CHECKING:
    from crisper.engine.reading import Reading
    from crisper.engine.survey import Survey
    from crisper.settings import Settings
    from crisper.store.sql import SqlStore


#: A transaction that takes longer has failed: a registry that hangs must not hang the command.
CALL_SECONDS = 10.0


@dataclass
class Place:
    app_name: str | None
    celery_app: Any
    registry: str | None
    no_color: bool

    @cached_property
    def app(self) -> Any:
        """The Celery app, or None if none was named."""
        if self.app_name is not None:
            return _find(self.app_name)
        if self.celery_app is None or self.celery_app.main == "default":
            return None  # `celery crisper …` without -A: Celery makes one up
        return self.celery_app

    @cached_property
    def settings(self) -> Settings:
        """Raises `SettingsError`."""
        from crisper.settings import load

        if self.app is None:
            settings = load({})
        else:
            from crisper.celery.install import settings_of

            settings = settings_of(self.app)
        if self.registry is not None:
            settings = dataclasses.replace(settings, registry_url=self.registry)
        return settings

    @property
    def typed(self) -> str:
        """What stands before a command's name, for commands that people are to copy."""
        if self.app_name is not None:
            return f"crisper -A {shlex.quote(self.app_name)}"
        if self.app is not None:
            return f"celery -A {shlex.quote(_app_of_celery_s_door(sys.argv) or 'proj')} crisper"
        return "crisper" if self.registry is None else "crisper --registry URL"

    def url(self) -> str:
        """The registry to read. Raises `SettingsError` where nobody said which and there is no default."""
        from crisper.store.open import is_sqlite, sqlite_path

        url = self.settings.registry_url
        named = self.app is not None or self.registry is not None or "CRISPER_REGISTRY_URL" in os.environ
        if not named and is_sqlite(url) and not sqlite_path(url).exists():
            raise SettingsError(
                "which registry? Name the app with -A proj before the command, or the registry with"
                " --registry or CRISPER_REGISTRY_URL"
            )
        return url

    @contextmanager
    def survey(self) -> Iterator[Survey]:
        from crisper.engine.survey import Survey

        with closing(Survey(self.url(), application_name="crisper command line")) as survey:
            yield survey

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        from crisper.engine.reading import Reading

        with closing(Reading(self.url(), application_name="crisper command line")) as reading:
            yield reading

    @contextmanager
    def store(self) -> Iterator[SqlStore]:
        """For the verbs. Raises `SchemaMissing`, `SchemaOutdated` or `SchemaTooNew`."""
        from crisper.engine.deadline import Watchdog
        from crisper.store import migrate
        from crisper.store.open import open_store

        url = self.url()
        migrate.check(url)
        with (
            Watchdog(CALL_SECONDS) as watchdog,
            closing(open_store(url, application_name="crisper command line", within=watchdog.call)) as store,
        ):
            yield store


def _app_of_celery_s_door(arguments: list[str]) -> str | None:
    for option, value in itertools.pairwise(arguments):
        if option in ("-A", "--app"):
            return value
        if option.startswith("--app="):
            return option.removeprefix("--app=")
    return None


def _find(name: str) -> Any:
    """An app's modules may print; stdout is kept for what we have to say."""
    from celery import Celery
    from celery.app.utils import find_app

    try:
        with contextlib.redirect_stdout(sys.stderr):
            app = find_app(name)
    except ModuleNotFoundError as exc:
        raise SettingsError(
            f"cannot load the app {name!r}: there is no module {exc.name!r}."
            " Run this in the project's folder, or write -A package.module:attribute"
        ) from exc
    except (Exception, SystemExit) as exc:
        raise SettingsError(f"cannot load the app {name!r}: {type(exc).__name__}: {exc}") from exc
    if not isinstance(app, Celery):
        raise SettingsError(
            f"{name!r} is a {type(app).__name__}, not a Celery app; write -A module:attribute"
        )
    return app
