"""What a trace and an issue tracker are told of a loss: by a real courier, kept in memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sentry_sdk
from celery import Celery
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from sentry_sdk.transport import Transport

from crisper.celery import traces
from crisper.celery.courier import Courier, Done
from crisper.celery.desk import StoreDesk
from crisper.core.message import Kept, pack
from crisper.core.states import OnLost, VerdictKind
from crisper.settings import Settings
from crisper.store import migrate
from crisper.store.open import open_store
from tests.store.acting import SCOPE, Actor

TRACE, SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
PARENT = f"00-{TRACE:032x}-{SPAN:016x}-01"
SECRET = "4111-1111"

_exporter = InMemorySpanExporter()


@pytest.fixture(scope="session", autouse=True)
def _provider() -> None:
    """Of a process there can be one."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(_exporter))
    trace.set_tracer_provider(provider)


@pytest.fixture
def spans() -> Iterator[Callable[[], dict[str, ReadableSpan]]]:
    _exporter.clear()
    yield lambda: {span.name: span for span in _exporter.get_finished_spans()}
    _exporter.clear()


@pytest.fixture
def issues() -> Iterator[list[dict[str, Any]]]:
    caught: list[dict[str, Any]] = []

    class Kept(Transport):
        def capture_envelope(self, envelope: Any) -> None:
            caught.append(envelope.get_event())

    sentry_sdk.init(dsn="http://key@127.0.0.1/1", transport=Kept, default_integrations=False)
    yield caught
    sentry_sdk.get_global_scope().set_client(None)


def charge() -> None:
    """Never run: it is lost."""


@pytest.fixture
def lose(tmp_path: Path) -> Iterator[Callable[..., Done]]:
    """A worker dies in the midst of `shop.charge`; a courier does what is to be done."""
    url = f"sqlite:///{tmp_path}/registry.db"
    migrate.upgrade(url)
    (tmp_path / "queue").mkdir()
    app = Celery("shop", broker="filesystem://", set_as_current=False)
    folders = {f"data_folder_{way}": str(tmp_path / "queue") for way in ("in", "out")}
    app.conf.broker_transport_options = {**folders, "control_folder": str(tmp_path / "control")}
    app.task(name="shop.charge")(charge)
    with (
        closing(open_store(url)) as store,
        closing(Courier(app, Settings(), StoreDesk(store), name="courier")) as courier,
    ):

        def lose(headers: dict[str, Any], **claim: Any) -> Done:
            dead = Actor(store, hostname="celery@dead", lease_ms=20_000)
            kept = Kept(SECRET.encode(), "application/json", "utf-8", headers, {}, "", "celery")
            dead.runs("task-1", "its message", name="shop.charge", message=pack(kept, limit=1000), **claim)
            dead.is_lost()
            [case] = store.take_cases(Actor(store, hostname="celery@other").id, SCOPE, limit=9)
            [done] = courier.carry([case])
            return done

        yield lose


RESENT = {"on_lost": OnLost.RESEND, "acks_late": False, "dispatched": True}
POISON = {**RESENT, "loss_budget": 0}


def test_a_lost_attempt_and_its_recovery_go_on_in_the_trace_of_the_message(
    lose: Callable[..., Done], spans: Callable[[], dict[str, ReadableSpan]]
) -> None:
    assert lose({"traceparent": PARENT}, **RESENT).verdict is VerdictKind.RESEND
    found = spans()
    assert set(found) == {"lost shop.charge", "recover shop.charge"}
    lost, recovered = found["lost shop.charge"], found["recover shop.charge"]
    for span in (lost, recovered):
        assert span.context.trace_id == TRACE
        assert span.parent is not None
        assert span.parent.span_id == SPAN
        assert span.links[0].context.span_id == SPAN
        assert span.attributes is not None
        assert span.attributes["crisper.verdict"] == "resend"
        assert span.attributes["crisper.attempt"] == 1
        assert SECRET not in span.to_json()
    assert recovered.links[1].context.span_id == lost.context.span_id
    assert (lost.kind, lost.status.status_code) == (SpanKind.CONSUMER, StatusCode.ERROR)
    assert (recovered.kind, recovered.status.status_code) == (SpanKind.PRODUCER, StatusCode.UNSET)
    assert lost.start_time is not None
    assert lost.end_time is not None
    assert lost.start_time <= lost.end_time <= (recovered.start_time or 0) + 1_000_000_000


@pytest.mark.parametrize(
    "headers", [{}, {"traceparent": "00-zz-yy-01"}, {"traceparent": 7}, {"headers": "x"}]
)
def test_without_a_trace_to_go_on_a_loss_begins_its_own(
    lose: Callable[..., Done], spans: Callable[[], dict[str, ReadableSpan]], headers: dict[str, Any]
) -> None:
    lose(headers, **RESENT)
    lost = spans()["lost shop.charge"]
    assert (lost.parent, lost.links) == (None, ())


def test_a_trace_is_found_where_celery_nests_headers(
    lose: Callable[..., Done], spans: Callable[[], dict[str, ReadableSpan]]
) -> None:
    lose({"headers": {"traceparent": PARENT}}, **RESENT)
    assert spans()["lost shop.charge"].context.trace_id == TRACE


def test_a_task_in_quarantine_is_one_issue_and_what_is_brought_back_is_none(
    lose: Callable[..., Done], spans: Callable[[], dict[str, ReadableSpan]], issues: list[dict[str, Any]]
) -> None:
    done = lose({"traceparent": PARENT}, **POISON)
    assert done.verdict is VerdictKind.QUARANTINE
    [issue] = issues
    assert issue["logentry"]["formatted"] == f"shop.charge is in quarantine: {done.reason}"
    assert issue["fingerprint"] == ["crisper-quarantine", "shop.charge"]
    assert issue["contexts"]["crisper"]["messaging.message.id"] == "task-1"
    assert SECRET not in str(issue)
    assert set(spans()) == {"lost shop.charge"}  # nothing brought it back


def test_a_recovery_is_no_issue(lose: Callable[..., Done], issues: list[dict[str, Any]]) -> None:
    lose({}, **RESENT)
    assert issues == []


def test_trouble_with_them_is_no_trouble_of_the_recovery(
    lose: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "_about", lambda *_: 1 / 0)
    assert lose({"traceparent": PARENT}, **RESENT).carried_out


def test_whoever_uses_neither_imports_neither() -> None:
    command = (
        "import crisper.celery.courier, sys;"
        " print([name for name in ('opentelemetry', 'sentry_sdk') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
