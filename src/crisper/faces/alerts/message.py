"""An incident in words and as data. What tasks and workers are called is quoted, never obeyed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from crisper.engine.alerts.incident import (
    BEGUN,
    BRAKE,
    QUARANTINE,
    REGISTRY_DOWN,
    SWEEPER_SILENT,
    WORKER_LOST,
    Incident,
    Members,
)
from crisper.engine.answers import iso
from crisper.faces.cli.text import clean

#: Named in a message; the rest are counted.
NAMED = 10
TEST = "test"


class Message(NamedTuple):
    id: str  # the same whenever it is sent again
    kind: str
    stage: str
    title: str
    body: str
    time: str
    source: str
    data: dict[str, Any]


def of_incident(one: Incident, registry: str) -> Message:
    """`registry`: its id."""
    begun = one.stage == BEGUN
    title = _TITLES[one.kind](one.members)
    lines = [f"{_named(about)}" for about in list(one.members.values())[:NAMED] if _named(about)]
    if len(one.members) > NAMED:
        lines.append(f"and {len(one.members) - NAMED} more")
    lines.append(_ADVICE[one.kind] if begun else "")
    return Message(
        id=f"{one.id}.{one.stage}",
        kind=one.kind,
        stage=one.stage,
        title=f"Crisper: {title}" if begun else f"Crisper: over: {title}",
        body="\n".join(line for line in lines if line),
        time=str(iso(one.since if begun else one.ended)),
        source=f"/crisper/{registry}",
        data={
            "incident": one.id,
            "kind": one.kind,
            "stage": one.stage,
            "since": iso(one.since),
            "title": title,
            "advice": _ADVICE[one.kind],
            "count": len(one.members),
            "items": list(one.members.values())[:NAMED],
        },
    )


def a_test(id: str, at: int) -> Message:
    title = "a test of the alerts"
    data = {"incident": id, "kind": TEST, "stage": BEGUN, "since": iso(at), "title": title}
    return Message(
        id, TEST, BEGUN, f"Crisper: {title}", "Nothing is wrong.", str(iso(at)), "/crisper/test", data
    )


def as_cloud_event(message: Message) -> bytes:
    """CloudEvents 1.0, structured, in ASCII."""
    event = {
        "specversion": "1.0",
        "id": message.id,
        "source": message.source,
        "type": f"crisper.{message.kind}.{message.stage}",
        "subject": message.kind,
        "time": message.time,
        "datacontenttype": "application/json",
        "data": message.data,
    }
    return json.dumps(event, separators=(",", ":")).encode("ascii")


def harmless(text: object) -> str:
    """A chat takes `@everyone` and `<!channel>` for orders: an invisible mark makes names of them."""
    return clean(text, most=100).replace("@", "@\u200b").replace("<", "<\u200b")


def _named(about: dict[str, Any]) -> str:
    if "worker" in about:
        how = f" ({harmless(about['how'])})" if about.get("how") else ""
        return f"- {harmless(about['worker'])}{how}"
    if "task_id" in about:
        return f"- {harmless(about['name'])} {harmless(about['task_id'])}, lost {about.get('losses')} times"
    return ""


def _many(members: Members, one: str, many: str) -> str:
    return f"1 {one}" if len(members) == 1 else f"{len(members)} {many}"


def _brake(members: Members) -> str:
    about = next(iter(members.values()))
    return f"{about.get('silent')} of {about.get('alive')} workers fell silent at once"


_TITLES: dict[str, Callable[[Members], str]] = {
    WORKER_LOST: lambda members: _many(members, "worker was declared lost", "workers were declared lost"),
    QUARANTINE: lambda members: _many(members, "task is in quarantine", "tasks are in quarantine"),
    BRAKE: _brake,
    REGISTRY_DOWN: lambda members: "the registry does not answer",
    SWEEPER_SILENT: lambda members: "nobody sweeps",
}
_ADVICE = {
    WORKER_LOST: "What they ran is being brought back: crisper workers, crisper status.",
    QUARANTINE: "Each was lost more often than its loss budget allows: crisper tasks --state quarantined.",
    BRAKE: "They are declared lost after a second full lease. Look at the network, or at what they share.",
    REGISTRY_DOWN: "Workers go on by their journals, or pause. Nothing lost comes back until it answers.",
    SWEEPER_SILENT: "A host that dies now is not noticed. Start a worker, or serve without --no-sweep.",
}
