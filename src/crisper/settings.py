"""Settings: one frozen value, made and checked once. No other module reads the environment.

Sources, the later wins: defaults, `app.conf` with prefix `crisper_` (Django:
`CELERY_CRISPER_*`), environment `CRISPER_*`.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crisper.core.preview import DEFAULT_REDACT
from crisper.errors import SettingsError

PREFIX = "crisper_"

_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


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
        default_registry_url, "where attempts are on record: postgresql://… or sqlite:////path"
    )
    recording: str = _setting(
        "strict",
        "strict: a task is dispatched only once its claim is committed; relaxed: at once",
        one_of=("strict", "relaxed"),
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
    max_message_bytes: int = _setting(
        16 * 2**20, "larger messages are tracked, but not kept for re-sending", unit="bytes"
    )
    preview_bytes: int = _setting(4096, "of arguments, as people see them", unit="bytes")
    redact: tuple[str, ...] = _setting(DEFAULT_REDACT, "parts of argument names whose values are never shown")

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise SettingsError(problem)


def _problems(settings: Settings) -> list[str]:
    problems = [
        f"crisper_{name} = {getattr(settings, name)!r}: must be one of {', '.join(allowed)}"
        for name, allowed in _one_of().items()
        if getattr(settings, name) not in allowed
    ]
    least = {
        "heartbeat_interval": 0.05,
        "sweep_interval": 0.05,
        "recovery_rate": 0.1,
        "redelivery_grace": 0,
        "loss_budget": 0,
        "max_message_bytes": 0,
        "preview_bytes": 256,
    }
    problems += [
        f"crisper_{name} = {getattr(settings, name)!r}: must be at least {bound}"
        for name, bound in least.items()
        if not getattr(settings, name) >= bound
    ]
    if not settings.lease >= 3 * settings.heartbeat_interval:
        problems.append(
            f"crisper_lease = {settings.lease:g} s is shorter than three heartbeats of"
            f" {settings.heartbeat_interval:g} s, so a single slow renewal would cost a live worker"
            f" its tasks. Set crisper_lease to {3 * settings.heartbeat_interval:g} or more, or"
            f" crisper_heartbeat_interval to {settings.lease / 3:.3g} or less."
        )
    if not settings.sweep_interval <= settings.lease / 4:
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
        elif difflib.get_close_matches(name, known, n=1, cutoff=0.8):
            raise SettingsError(_unknown(key, name, known))
    return given


def _unknown(key: str, name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {PREFIX}{near[0]}?" if near else ""
    return f"unknown setting {key}.{hint} Known: {', '.join(sorted(known))}."


def _coerce(field: dataclasses.Field[Any], key: str, value: Any) -> Any:
    """The value in the field's type; environment variables are all strings."""
    try:
        match field.type:
            case "bool":
                return _bool(value)
            case "int":
                return int(value)
            case "float":
                return float(value)
            case "str":
                return str(value)
        parts = value.split(",") if isinstance(value, str) else value
        return tuple(str(part).strip() for part in parts)
    except (TypeError, ValueError):
        unit = f" ({field.metadata['unit']})" if field.metadata["unit"] else ""
        raise SettingsError(f"{key} = {value!r}: expected {field.type}{unit}") from None


def _bool(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
        return value.lower() in _TRUE
    if isinstance(value, (bool, int)):
        return bool(value)
    raise ValueError(value)
