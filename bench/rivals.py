"""What people put on record themselves, each as its own documentation has it: apps for `side_by_side.py`.

`RIVAL` in the environment names one: `handlers`, signal handlers in the pool's children that write a task's
start and end through a session of their own; `django`, django-celery-results. `RIVAL_DATABASE` is its URL.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from celery import Celery, signals
from sqlalchemy import DateTime, String, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

DATABASE = os.environ.get("RIVAL_DATABASE", "")


class Base(DeclarativeBase):
    pass


class TaskRun(Base):
    __tablename__ = "bench_task_run"

    task_id: Mapped[str] = mapped_column(String(255), primary_key=True)
    name: Mapped[str] = mapped_column(String(255))
    state: Mapped[str] = mapped_column(String(32), index=True)
    started_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


def handlers() -> None:
    """An engine for each process of the pool, as SQLAlchemy asks for; a session for each signal."""
    made: list[sessionmaker[Session]] = []

    def connect(**_: Any) -> None:
        made.append(sessionmaker(create_engine(DATABASE)))

    def started(task_id: str, task: Any, **_: Any) -> None:
        with made[0].begin() as session:
            session.add(
                TaskRun(task_id=task_id, name=task.name, state="STARTED", started_at=datetime.now(UTC))
            )

    def ended(task_id: str, state: str, **_: Any) -> None:
        with made[0].begin() as session:
            run = session.get_one(TaskRun, task_id)
            run.state, run.finished_at = state, datetime.now(UTC)

    signals.worker_process_init.connect(connect, weak=False)
    signals.task_prerun.connect(started, weak=False)
    signals.task_postrun.connect(ended, weak=False)


def django() -> None:
    """Connections are kept, as Django's `CONN_MAX_AGE` and Celery's `CELERY_DB_REUSE_MAX` allow."""
    import django as framework
    from django.conf import settings

    parts = urlsplit(DATABASE)
    settings.configure(
        INSTALLED_APPS=["django_celery_results"],
        CELERY_DB_REUSE_MAX=1_000_000,
        USE_TZ=True,
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": parts.path.lstrip("/"),
                "USER": parts.username or "",
                "PASSWORD": parts.password or "",
                "HOST": parts.hostname or "",
                "PORT": str(parts.port or ""),
                "CONN_MAX_AGE": None,
            }
        },
    )
    framework.setup()


def prepare() -> None:
    """Its tables, once."""
    if os.environ.get("RIVAL") == "django":
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
    else:
        Base.metadata.create_all(create_engine(DATABASE))


def made() -> Celery:
    from tests.fleet_app import app

    if os.environ["RIVAL"] == "handlers":
        handlers()
    return app


if os.environ.get("RIVAL") == "django":
    django()
if "FLEET_FOLDER" in os.environ:
    app = made()
