"""One task's story, from the JSON of `show`: what happened, in time order, in words. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple

from crisper.core.progress import so_far
from crisper.core.size import size
from crisper.core.stack import essence
from crisper.faces.cli.text import clean, seconds


class Entry(NamedTuple):
    """One thing that happened."""

    at: str
    attempt: int | None
    sentence: str
    details: tuple[str, ...] = ()
    word: str = ""  # the state whose colour it has


def story(shown: dict[str, Any]) -> list[Entry]:
    """Everything on record about a task, oldest first; what happened at once in its natural order."""
    entries = [*_attempts(shown), *_checkpoint(shown), *_events(shown), *_sent(shown)]
    return sorted(entries, key=lambda entry: (entry.at, entry.attempt or 0))


def told(evidence: object) -> str:
    """Evidence in one line: `losses: 1, acks_late: yes`; what is absent or no goes without saying."""
    if not isinstance(evidence, dict):
        return clean(evidence)
    facts = [
        f"{clean(key)}: {_value(value)}"
        for key, value in evidence.items()
        if value is not None and value is not False and value not in ("", {}, [])
    ]
    return ", ".join(facts) or "none"


#: In place of `how` a worker was declared lost, the facts that each needs.
_DEATHS = {
    "witnessed by its recorder": "its recorder saw its process {pid} end",
    "process gone": "its process {pid} was gone",
    "process gone, its journal was replayed": "its process {pid} was gone, and its journal is on record",
    "silence": "it did not renew its lease of {lease} s, and was watched for {silent_for} s",
}
_SAID = ("how", "pid", "pid_start", "lease", "silent_for", "counter", "by")


def death(evidence: object) -> str:
    """A worker's end in one sentence, with what else is known of it; other evidence as `told` tells it."""
    facts = evidence if isinstance(evidence, dict) else {}
    how = facts.get("how")
    sentence = _DEATHS.get(how) if isinstance(how, str) else None
    try:
        said = sentence and sentence.format_map({key: _value(value) for key, value in facts.items()})
    except KeyError:
        said = None
    if not said:
        return told(evidence)
    more = {key: value for key, value in facts.items() if key not in _SAID}
    return f"{said} ({told(more)})" if more else said


def _value(value: object) -> str:
    if value is True:
        return "yes"
    if isinstance(value, (dict, list)):
        return clean(json.dumps(value, ensure_ascii=False))
    return clean(value)


def _attempts(shown: dict[str, Any]) -> Iterator[Entry]:
    losses = {event["attempt"] for event in shown["events"] if event["kind"] in ("lost", "vanished")}
    for one in shown["attempts"]:
        number, worker = one["number"], clean(one["worker"])
        if one["received_at"]:
            yield Entry(one["received_at"], number, f"claimed by {worker}" if worker else "published")
        if one["started_at"]:
            process = f"process {one['pid']} of " if one["pid"] else ""
            memory = f", {size(one['memory_bytes'])} of memory" if one["memory_bytes"] else ""
            yield Entry(one["started_at"], number, f"running in {process}{worker}{memory}", word="running")
        if one["progress"] and one["progress"]["at"]:
            yield Entry(one["progress"]["at"], number, _progress(one["progress"]))
        if one["finished_at"] and not (one["state"] == "lost" and number in losses):
            yield Entry(one["finished_at"], number, _ending(one), word=one["state"])


def _checkpoint(shown: dict[str, Any]) -> Iterator[Entry]:
    last = shown["checkpoint"]
    if last and last["at"]:
        yield Entry(last["at"], last["attempt"], f"last checkpoint: {_value(last['preview'])}")


def _progress(told: dict[str, Any]) -> str:
    note = f": {clean(told['note'])}" if told["note"] else ""
    return f"progress: {so_far(told['done'], told['total'])}{note}"


def _ending(one: dict[str, Any]) -> str:
    ran = f" after {seconds(one['runtime'])}" if one["runtime"] is not None else ""
    why = f": {clean(one['reason'], most=500)}" if one["reason"] else ""
    return f"{one['state']}{ran}{why}"


def _events(shown: dict[str, Any]) -> Iterator[Entry]:
    return (of_event(event) for event in shown["events"] if event["at"] is not None)


def of_event(event: dict[str, Any]) -> Entry:
    """One event of the audit trail, in words."""
    data = event["data"] if isinstance(event["data"], dict) else {"data": event["data"]}
    write = _KINDS.get(event["kind"], _other)
    sentence, details = write(event, data)
    return Entry(event["at"] or "", event["attempt"], sentence, details, _WORDS.get(event["kind"], ""))


_Telling = tuple[str, tuple[str, ...]]


def _by(event: dict[str, Any]) -> str:
    return f" (by {clean(event['actor'])})"


def _lost(event: dict[str, Any], data: dict[str, Any]) -> _Telling:
    return f"lost{_by(event)}", (f"evidence: {told(data)}",)


def _vanished(event: dict[str, Any], data: dict[str, Any]) -> _Telling:
    return f"vanished: nobody claimed it, and the broker has it no more{_by(event)}", (
        f"evidence: {told(data)}",
    )


def _verdict(event: dict[str, Any], data: dict[str, Any]) -> _Telling:
    verdict = clean(str(data.get("verdict")).replace("_", " "))
    reason = clean(data.get("reason"), most=500)
    return f"verdict: {verdict}, because {reason}{_by(event)}", (f"evidence: {told(data.get('evidence'))}",)


def _recovered(event: dict[str, Any], data: dict[str, Any]) -> _Telling:
    return f"carried out: {clean(str(data.get('action')).replace('_', ' '))}{_by(event)}", ()


def _refused(event: dict[str, Any], data: dict[str, Any]) -> _Telling:
    again = "a redelivery" if data.get("redelivered") else "a delivery"
    return f"{again} was refused at {clean(event['worker'])}: {clean(data.get('reason'))}", ()


def _overlap(event: dict[str, Any], data: dict[str, Any]) -> _Telling:
    """Two bodies of one message ran; the one that is no attempt is told of here."""
    place = clean(event["worker"])
    why = clean(data.get("reason")) or "the gate was not asked before it began"
    return f"overlap: it ran at {place} beside the attempt above, and does not count: {why}", ()


def _stop(event: dict[str, Any], data: dict[str, Any]) -> _Telling:
    return f"ordered to stop, because {clean(data.get('reason'), most=500)}{_by(event)}", ()


def _late(event: dict[str, Any], data: dict[str, Any]) -> _Telling:
    outcome = f"late finish from {clean(event['worker'])}: {clean(data.get('state'))}, not counted"
    return f"{outcome}, because {clean(data.get('why'))}", ()


def _delayed(event: dict[str, Any], data: dict[str, Any]) -> _Telling:
    return f"recovery put off: {clean(data.get('why'), most=500)}{_by(event)}", ()


def _worker(event: dict[str, Any], data: dict[str, Any]) -> _Telling:
    worker, became = clean(event["worker"]), _BECAME[event["kind"]]
    if event["kind"] == "worker_lost":
        became = f"{became}, because {death(data)}"
    return f"{worker} {became}{_by(event)}", (f"evidence: {told(data)}",) if data else ()


def _ailing(event: dict[str, Any], data: dict[str, Any]) -> _Telling:
    """What ails a worker that lives, or an attempt that runs; its stack below, a line each."""
    stack = essence(str(data.get("stack") or ""))
    facts = {key: value for key, value in data.items() if key not in ("sentence", "stack")}
    whose = "" if event["attempt"] else f"{clean(event['worker'])} is "
    sentence = f"{whose}{clean(event['kind'])}: {clean(data.get('sentence'), most=500)}"
    more = (f"… and {len(stack) - _STACK_MOST} lines more",) if len(stack) > _STACK_MOST else ()
    return sentence, (f"evidence: {told(facts)}", *map(clean, stack[:_STACK_MOST]), *more)


#: Lines of a stack that are shown; the JSON has all that are kept.
_STACK_MOST = 24


def _went_on(event: dict[str, Any], data: dict[str, Any]) -> _Telling:
    return f"not {clean(data.get('was'))} any more, after {clean(data.get('seconds'))} s", ()


def _other(event: dict[str, Any], data: dict[str, Any]) -> _Telling:
    return f"{clean(event['kind'].replace('_', ' '))}{_by(event)}", (told(data),) if data else ()


def _brake(event: dict[str, Any], data: dict[str, Any]) -> _Telling:
    silent, alive = clean(data.get("silent")), clean(data.get("alive"))
    return f"brake: {silent} of {alive} workers fell silent at once, and are looked at again{_by(event)}", ()


_BECAME = {
    "worker_enrolled": "began",
    "worker_gone": "said goodbye",
    "worker_lost": "was declared lost",
}
_KINDS = {
    **dict.fromkeys(_BECAME, _worker),
    "lost": _lost,
    "vanished": _vanished,
    "verdict": _verdict,
    "recovered": _recovered,
    "refused": _refused,
    "overlap": _overlap,
    "stop": _stop,
    "late_finish": _late,
    "recovery_delayed": _delayed,
    "brake": _brake,
    **dict.fromkeys(("wedged", "silent", "stalled"), _ailing),
    "went_on": _went_on,
}
_WORDS = {
    "worker_lost": "lost",
    "lost": "lost",
    "vanished": "lost",
    "verdict": "recovering",
    "late_finish": "suspect",
    "recovery_delayed": "suspect",
    "brake": "suspect",
    **dict.fromkeys(("wedged", "silent", "stalled"), "suspect"),
}


def _sent(shown: dict[str, Any]) -> Iterator[Entry]:
    """A recovery whose events were pruned still says when it was carried out."""
    carried = {event["attempt"] for event in shown["events"] if event["kind"] == "recovered"}
    for recovery in shown["recoveries"]:
        if recovery["sent_at"] and recovery["attempt"] not in carried:
            action = clean(str(recovery["action"]).replace("_", " "))
            yield Entry(recovery["sent_at"], recovery["attempt"], f"carried out: {action}")


def advice(shown: dict[str, Any], typed: str = "crisper") -> tuple[str, ...]:
    """What a person can do now, if anything; commands stand in lines of their own, to be copied."""
    id = clean(shlex.quote(shown["task_id"]))
    again, close = f"  {typed} recover {id}", f"  {typed} discard {id}"
    last = shown["recoveries"][-1] if shown["recoveries"] else None
    if shown["state"] in ("quarantined", "held"):
        return "", "→ It waits for you. Run it again, or close it for good:", again, close
    of_latest = last is not None and last["attempt"] == shown["attempts"][-1]["number"]
    stopped = shown["state"] == "revoked" and any(event["kind"] == "stop" for event in shown["events"])
    if stopped or (last and of_latest and last["action"] in ("fail", "discard", "revoked")):
        return "", "→ While its message is kept, it can run again:", again
    if shown["state"] == "recovering":
        return "", "→ Crisper is bringing it back; a live worker of its app carries that out."
    return ()
