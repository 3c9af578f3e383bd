"""Prometheus metrics: how the registry stands, and totals that survive a restart and a prune."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from sqlalchemy import func, select
from starlette.requests import Request
from starlette.responses import Response

from crisper import __version__
from crisper.engine.narrowing import is_open
from crisper.errors import RegistryError
from crisper.faces.serve import asked
from crisper.faces.serve.access import Needs
from crisper.faces.serve.doors import Door
from crisper.faces.serve.registry import Registry
from crisper.faces.serve.sweeping import Sweeping
from crisper.store import totals
from crisper.store.schema import attempt, registry
from crisper.store.totals import Totals

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LONGEST_LABEL = 100


class Metric(NamedTuple):
    name: str
    kind: str  # gauge or counter
    label: str | None
    about: str


METRICS = (
    Metric("crisper_build_info", "gauge", "version", "1, with the version of this Crisper"),
    Metric(
        "crisper_registry_up", "gauge", None, "1 if the registry answered, 0 if not: then all below is absent"
    ),
    Metric("crisper_sweeper_leads", "gauge", None, "1 if the sweeper of this process is the elected one"),
    Metric(
        "crisper_sweeper_silent_seconds",
        "gauge",
        None,
        "since the elected sweeper, of whatever process, was last seen at work by this one",
    ),
    Metric("crisper_workers", "gauge", "state", "workers on record: alive, suspect, lost, gone"),
    Metric("crisper_workers_of_version", "gauge", "version", "live workers by their version of Crisper"),
    Metric(
        "crisper_workers_to_clear", "gauge", None, "lost or gone workers that may still have open attempts"
    ),
    Metric("crisper_workers_ailing", "gauge", "kind", "live workers that are named: wedged, silent"),
    Metric("crisper_attempts_stalled", "gauge", None, "running attempts that are named as stalled"),
    Metric(
        "crisper_worker_errors", "gauge", None, "errors in Crisper's own code that live workers have counted"
    ),
    Metric(
        "crisper_journal_bytes", "gauge", None, "of live workers' journals, to be replayed into the registry"
    ),
    Metric("crisper_messages_unclaimed", "gauge", None, "tracked messages that nobody has claimed yet"),
    Metric("crisper_attempts_open", "gauge", "state", "open attempts: claimed, running"),
    Metric(
        "crisper_attempts_unkept",
        "gauge",
        None,
        "open attempts whose message is not kept, most often for its size: lost, they cannot be sent again",
    ),
    Metric("crisper_tasks_waiting", "gauge", "state", "tasks that wait for a person: quarantined, held"),
    Metric("crisper_recoveries_under_way", "gauge", None, "recoveries that are pending, decided or waiting"),
    Metric(
        "crisper_events_total", "counter", "kind", "events: lost, verdict, recovered, refused, overlap, …"
    ),
    Metric("crisper_verdicts_total", "counter", "verdict", "verdicts: resend, hand_back, quarantine, …"),
)

#: Kinds of events that alerts ask for: an increase is seen only of what was there before.
FROM_ZERO = ("worker_lost", "lost", "vanished", "overlap", "brake")

_UNKEPT = select(func.count()).where(is_open(attempt), attempt.c.why_not_kept.is_not(None))
_TOTALS = select(registry.c.value).where(registry.c.key == totals.KEY)

Samples = dict[str, Mapping[str, float]]


class Metrics:
    def __init__(self, registry: Registry, sweeping: Sweeping | None) -> None:
        self._registry, self._sweeping = registry, sweeping

    def doors(self) -> list[Door]:
        return [Door("GET", "/metrics", Needs.NOTHING_ON_LOOPBACK, self.scrape, "Metrics, for Prometheus.")]

    def scrape(self, request: Request) -> Response:
        asked.only(request, ())
        leads = self._sweeping is not None and self._sweeping.state == "leads"
        samples: Samples = {
            "crisper_build_info": {__version__: 1},
            "crisper_registry_up": {"": 0},
            "crisper_sweeper_leads": {"": int(leads)},
        }
        try:
            with self._registry.reading.snapshot() as connection:
                status = self._registry.survey.status()
                counted = totals.of(connection.execute(_TOTALS).scalar())
                unkept = connection.execute(_UNKEPT).scalar_one()
        except RegistryError:
            return Response("".join(_lines(samples)), media_type=CONTENT_TYPE)
        silent = self._sweeping.silent_seconds if self._sweeping is not None else 0.0
        samples |= {"crisper_registry_up": {"": 1}, "crisper_sweeper_silent_seconds": {"": round(silent, 1)}}
        samples |= samples_of(status, counted) | {"crisper_attempts_unkept": {"": unkept}}
        return Response("".join(_lines(samples)), media_type=CONTENT_TYPE)


def samples_of(status: Mapping[str, Any], counted: Totals) -> Samples:
    """Each metric's values by label; `""` where it has none."""
    workers, sweeper = status["workers"], status["sweeper"]
    return {
        "crisper_workers": {state: workers[state] for state in ("alive", "suspect", "lost", "gone")},
        "crisper_workers_of_version": workers["versions"],
        "crisper_workers_to_clear": {"": sweeper["workers_to_clear"]},
        "crisper_workers_ailing": {kind: workers[kind] for kind in ("wedged", "silent")},
        "crisper_attempts_stalled": {"": workers["stalled"]},
        "crisper_worker_errors": {"": workers["errors"]},
        "crisper_journal_bytes": {"": workers["journal_bytes"]},
        "crisper_messages_unclaimed": {"": status["messages"]["unclaimed"]},
        "crisper_attempts_open": status["attempts"],
        "crisper_tasks_waiting": {state: status["tasks"][state] for state in ("quarantined", "held")},
        "crisper_recoveries_under_way": {"": sweeper["recoveries_under_way"]},
        "crisper_events_total": {**dict.fromkeys(FROM_ZERO, 0), **counted.events},
        "crisper_verdicts_total": counted.verdicts,
    }


def _lines(samples: Samples) -> Iterator[str]:
    for metric in METRICS:
        if metric.name in samples:
            yield f"# HELP {metric.name} {metric.about}\n# TYPE {metric.name} {metric.kind}\n"
            yield from _values(metric, samples[metric.name].items())


def _values(metric: Metric, values: Iterable[tuple[str, float]]) -> Iterator[str]:
    for label, value in values:
        shown = f'{{{metric.label}="{_escaped(label)}"}}' if metric.label else ""
        yield f"{metric.name}{shown} {value}\n"


def _escaped(label: str) -> str:
    """A label's value may be what a worker was told to call its version."""
    text = label[:LONGEST_LABEL].encode("utf-8", "backslashreplace").decode()
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
