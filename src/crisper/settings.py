"""Settings: one frozen value, made and checked once. No other module reads the environment.

Sources, the later wins: defaults, `app.conf` with prefix `crisper_` (Django:
`CELERY_CRISPER_*`), environment `CRISPER_*`.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from crisper.core.preview import DEFAULT_REDACT
from crisper.core.values import EXPECTED, READ
from crisper.errors import SettingsError

PREFIX = "crisper_"

#: `crisper.engine.alerts.incident` says what each is.
ALERTS = ("worker_lost", "quarantine", "brake", "registry_down", "sweeper_silent")

#: The least and the most that makes sense. What is kept must fit the databases' own limits
#: (32-bit counts; PostgreSQL's bytea and SQLite's blob end at 1 GB).
_BOUNDS: dict[str, tuple[float, float]] = {
    "heartbeat_interval": (0.05, 3600),
    "lease": (0.15, 86_400),
    "sweep_interval": (0.05, 21_600),
    "recovery_rate": (0.1, 1_000_000),
    "redelivery_grace": (0, 2_592_000),
    "stall_after": (0, 31_536_000),
    "stall_usual": (0, 1_000_000),
    "wedged_after": (3, 86_400),
    "silent_after": (4, 86_400),
    "loss_budget": (0, 1_000_000),
    "max_message_bytes": (0, 512 * 2**20),
    "journal_max_bytes": (4 * 2**20, 2**50),
    "failover_window": (0, 86_400),
    "preview_bytes": (256, 2**20),
    "retention_days": (0, 36_500),
    "retention_lost_days": (0, 36_500),
    "retention_audit_days": (0, 36_500),
}

#: What Kubernetes calls the variables that it puts beside every service, behind the service's own name.
_OF_KUBERNETES = re.compile(r"(^|_)(service_(host|port)(_\w+)?|port(_\d+_(tcp|udp|sctp)(_\w+)?)?)$")


def _setting(default: Any, meaning: str, *, unit: str = "", one_of: tuple[str, ...] = ()) -> Any:
    metadata = {"meaning": meaning, "unit": unit, "one_of": one_of}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def default_registry_url() -> str:
    """A SQLite file in the platform's state folder of the user that runs the worker."""
    import platformdirs

    folder = Path(platformdirs.user_state_dir("crisper"))
    return f"sqlite:///{folder / 'registry.db'}"


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting, with its unit, default, meaning and check."""

    enabled: bool = _setting(True, "off: the worker runs as plain Celery")
    registry_url: str = _setting(
        default_registry_url, "where attempts are on record: postgresql://…, mariadb://… or sqlite:////path"
    )
    recording: str = _setting(
        "strict",
        "strict: a task is dispatched only once its claim is committed; relaxed: at once",
        one_of=("strict", "relaxed"),
    )
    on_registry_down: str = _setting(
        "journal",
        "while the registry cannot be reached; journal: tasks go on, on record in a file on this host's disk,"
        " which is replayed; pause: the worker takes no more messages until it is back",
        one_of=("journal", "pause"),
    )
    journal_dir: str = _setting(
        "", "folder of the journals; on a disk that outlives the worker, for its user alone"
    )
    journal_max_bytes: int = _setting(
        2**30, "a worker's journal takes no new tasks beyond that; one needs 1 to 2 kB", unit="bytes"
    )
    probe_dir: str = _setting(
        "", "folder of the workers' signs of life, which crisper-probe reads; for their user alone"
    )
    failover_window: float = _setting(
        600.0,
        "what was committed for so long before a PostgreSQL failover is written again after it, because an"
        " asynchronous replica may not have it; 0: off",
        unit="s",
    )
    on_lost: str = _setting(
        "auto",
        "what becomes of a running attempt that was lost; auto: resend where acks_late, else fail",
        one_of=("auto", "resend", "fail", "hold"),
    )
    loss_budget: int = _setting(3, "how many losses while running a task survives")
    heartbeat_interval: float = _setting(4.0, "between two renewals of a lease", unit="s")
    lease: float = _setting(20.0, "silence after which an incarnation may be declared", unit="s")
    sweep_interval: float = _setting(1.0, "between two sweeps", unit="s")
    recovery_rate: float = _setting(200.0, "recoveries that one courier carries out", unit="per s")
    redelivery_grace: float = _setting(
        30.0, "how long a redelivery by the broker is awaited before a re-send", unit="s"
    )
    stall_after: float = _setting(
        0.0,
        "an attempt that runs and has said nothing of its progress for so long is stalled; 0: never by that",
        unit="s",
    )
    stall_usual: float = _setting(
        0.0, "so many times the usual time of its name (the median), and it is stalled too; 0: never by that"
    )
    on_stalled: str = _setting(
        "warn",
        "what becomes of a stalled attempt; warn: it is named; stop: its process is ended, and its callers"
        " are told; stop_and_resend: ended, and its message sent again",
        one_of=("warn", "stop", "stop_and_resend"),
    )
    wedged_after: float = _setting(
        10.0,
        "a worker whose loop has not gone round for so long is wedged, unless for a broker outage, a shutdown"
        " or a solo task",
        unit="s",
    )
    on_wedged: str = _setting(
        "warn",
        "what becomes of a wedged worker; warn: it is named; exit: and its process ended, for its supervisor"
        " to start it again",
        one_of=("warn", "exit"),
    )
    silent_after: float = _setting(
        40.0,
        "an idle worker whose queues have messages that nobody takes for so long is silent; where its broker"
        " tells (Redis, RabbitMQ)",
        unit="s",
    )
    on_silent: str = _setting(
        "warn",
        "what becomes of a silent worker; warn: it is named; reconnect: and takes a new broker connection;"
        " exit: and shuts down, for its supervisor to start it again",
        one_of=("warn", "reconnect", "exit"),
    )
    track_publish: str = _setting(
        "off",
        "messages on record from when they are published, so that what vanishes in a broker is found;"
        " async (or true): in the background; sync: before the message leaves",
        one_of=("off", "async", "sync"),
    )
    rabbitmq_management_url: str = _setting(
        "",
        "of RabbitMQ's HTTP API, http://user:password@host:15672: by it a dead worker's connection is closed",
    )
    max_message_bytes: int = _setting(
        16 * 2**20, "larger messages are tracked, but not kept for re-sending", unit="bytes"
    )
    preview_bytes: int = _setting(4096, "of arguments, as people see them", unit="bytes")
    retention_days: float = _setting(
        30.0,
        "how long what is over stays on record, and its message is refused if it comes again; 0: for ever",
        unit="days",
    )
    retention_lost_days: float = _setting(
        90.0,
        "the same for a task that was ever lost; at least as long as for the others; 0: for ever",
        unit="days",
    )
    retention_audit_days: float = _setting(
        365.0,
        "how long events (losses, verdicts, decisions) stay when their task is forgotten; 0: for ever",
        unit="days",
    )
    alerts_webhook: str = _setting(
        "", "https://… that `crisper serve` tells of incidents: CloudEvents, signed by Standard Webhooks"
    )
    alerts_secret: str = _setting("", "whsec_… that signs them; `crisper alerts secret` makes one")
    alerts_private: bool = _setting(False, "on: the webhook may be in a private network, and http://")
    alerts_chat: tuple[str, ...] = _setting(
        (), "addresses of chats, mail or pagers to tell, as Apprise writes them"
    )
    alerts_on: tuple[str, ...] = _setting(ALERTS, "which incidents are told")
    redact: tuple[str, ...] = _setting(DEFAULT_REDACT, "parts of argument names whose values are never shown")

    @property
    def journals(self) -> Path:
        """The folder of the journals: beside the default registry, of the user that runs the worker, unless
        `journal_dir` says otherwise."""
        if self.journal_dir.strip():
            return Path(self.journal_dir)
        import platformdirs  # only where it is wanted: a client starts fast

        return Path(platformdirs.user_state_dir("crisper")) / "journal"

    @property
    def retention(self) -> tuple[float, float, float]:
        """Days: of what finished, of what was lost, of events."""
        return self.retention_days, self.retention_lost_days, self.retention_audit_days

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise SettingsError(problem)


def _problems(settings: Settings) -> list[str]:
    problems = [
        f"crisper_{name} = {getattr(settings, name)!r}: must be one of {', '.join(allowed)}"
        for name, allowed in _one_of().items()
        if getattr(settings, name) not in allowed
    ]
    if not settings.registry_url.strip():
        problems.append(
            "crisper_registry_url is empty. Set it to postgresql://…, mariadb://… or sqlite:////path/registry.db,"
            " or leave it out for a SQLite file in the platform's state folder."
        )
    if settings.rabbitmq_management_url and not _is_http(settings.rabbitmq_management_url):
        problems.append(  # without its value, which may hold a password
            "crisper_rabbitmq_management_url is no address of an HTTP API. Set it to"
            " http://user:password@host:15672 or https://…, or leave it out."
        )
    if 0 < settings.retention_days < 1:
        problems.append(
            f"crisper_retention_days = {settings.retention_days:g} is less than a day: what has finished is"
            " refused only as long as it is on record, and brokers deliver again after hours. Set it to 1 or"
            " more, or to 0 to keep everything."
        )
    problems += _lease_problems(settings)
    problems += _alert_problems(settings)
    return problems + _out_of_bounds(settings)


def _alert_problems(settings: Settings) -> list[str]:
    """Without their values, which may be secrets."""
    problems = [
        f"crisper_alerts_on: there is no incident {name!r}. Choose of {', '.join(ALERTS)}."
        for name in settings.alerts_on
        if name not in ALERTS
    ]
    url, secure = settings.alerts_webhook, settings.alerts_webhook.startswith("https://")
    if url and (not _is_http(url) or "@" in urlsplit(url).netloc or not (secure or settings.alerts_private)):
        problems.append(
            "crisper_alerts_webhook must be https://host/path, without user and password; http:// only in"
            " your own network, with crisper_alerts_private = True."
        )
    if url and not _is_secret(settings.alerts_secret):
        problems.append(
            "crisper_alerts_secret must be whsec_ and the base64 of 24 to 64 bytes, so that the receiver"
            " knows who speaks. Make one with `crisper alerts secret`, and give it to the receiver too."
        )
    return problems


def _is_secret(text: str) -> bool:
    try:
        return text.startswith("whsec_") and 24 <= len(b64decode(text[6:], validate=True)) <= 64
    except ValueError:
        return False


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


def _out_of_bounds(settings: Settings) -> list[str]:
    units = {f.name: f.metadata["unit"] for f in _fields()}
    return [
        f"crisper_{name} = {getattr(settings, name)!r}: must be between {least:g} and {most:.15g}"
        f" {units[name]}".rstrip()
        for name, (least, most) in _BOUNDS.items()
        if not least <= getattr(settings, name) <= most
    ]


def _lease_problems(settings: Settings) -> list[str]:
    problems = []
    if 0 < settings.lease < 3 * settings.heartbeat_interval:
        problems.append(
            f"crisper_lease = {settings.lease:g} s is shorter than three heartbeats of"
            f" {settings.heartbeat_interval:g} s, so a single slow renewal would cost a live worker"
            f" its tasks. Set crisper_lease to {3 * settings.heartbeat_interval:g} or more, or"
            f" crisper_heartbeat_interval to {settings.lease / 3:.3g} or less."
        )
    if 0 < settings.lease / 4 < settings.sweep_interval:
        problems.append(
            f"crisper_sweep_interval = {settings.sweep_interval:g} s is longer than a quarter of"
            " the lease, so no observation could ever span one. Set it to"
            f" {settings.lease / 4:g} or less."
        )
    return problems


def _one_of() -> dict[str, tuple[str, ...]]:
    return {f.name: f.metadata["one_of"] for f in _fields() if f.metadata["one_of"]}


def _fields() -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(Settings)


def load(conf: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from an app's configuration (keys `crisper_…`, any case) and the environment.

    Raises `SettingsError` for an unknown key, with the nearest known one, and
    for nonsense, with what to set.
    """
    given = {key.lower().removeprefix(PREFIX): (key, value) for key, value in conf.items()}
    known = {f.name: f for f in _fields()}
    for name, (key, _) in given.items():
        if name not in known:
            raise SettingsError(_unknown(key, name, known))
    given |= _from_environment(os.environ if environ is None else environ, known)
    return Settings(**{name: _coerce(known[name], key, value) for name, (key, value) in given.items()})


def _from_environment(environ: Mapping[str, str], known: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """A variable nobody asked for is an error only if it looks like a misspelt setting.

    Kubernetes puts `CRISPER_SERVICE_HOST` and the like into every container
    beside a service of that name.
    """
    given = {}
    for key, value in environ.items():
        name = key.lower().removeprefix(PREFIX)
        if not key.startswith(PREFIX.upper()):
            continue
        if name in known:
            given[name] = (key, value)
        elif not _OF_KUBERNETES.search(name) and difflib.get_close_matches(name, known, n=1, cutoff=0.8):
            raise SettingsError(_unknown(key, name, known))
    return given


def _unknown(key: str, name: str, known: Mapping[str, Any]) -> str:
    prefix = PREFIX.upper() if key.isupper() else PREFIX
    near = difflib.get_close_matches(name, known, n=1)
    meant = near[0].upper() if near and key.isupper() else near[0] if near else ""
    hint = f" Did you mean {prefix}{meant}?" if meant else ""
    return f"unknown setting {key}.{hint} Known, after {prefix}: {', '.join(sorted(known))}."


def _is_bool(value: Any) -> bool:
    try:
        READ["bool"](value)
    except ValueError:
        return False
    return True


def _coerce(field: dataclasses.Field[Any], key: str, value: Any) -> Any:
    """The value in the field's type; environment variables are all strings."""
    kind = str(field.type)
    try:
        if "off" in field.metadata["one_of"] and _is_bool(value):
            return "async" if READ["bool"](value) else "off"
        return READ[kind](value)
    except (TypeError, ValueError, OverflowError):
        unit = f" ({field.metadata['unit']})" if field.metadata["unit"] else ""
        raise SettingsError(f"{key} = {value!r}: expected {EXPECTED[kind]}{unit}") from None
