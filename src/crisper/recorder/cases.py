"""Cases and recoveries on the wire: the same values in types that marshal knows."""

from __future__ import annotations

from typing import Any

from crisper.core.model import Attempt, Case, Message, Recovery
from crisper.core.states import OnLost, RecoveryState, State, VerdictKind
from crisper.core.verdict import Judgement, Verdict
from crisper.recorder import wire


def case_to_wire(case: Case) -> dict[str, Any]:
    """A case in plain types."""
    return {
        "recovery": recovery_to_wire(case.recovery),
        "attempt": _fields(case.attempt),
        "message": tuple(case.message),
        "superseded": case.superseded,
        "finished_before": case.finished_before,
        "overdue": case.overdue,
    }


def recovery_to_wire(recovery: Recovery) -> dict[str, Any]:
    return _fields(recovery)


def _fields(value: Attempt | Recovery) -> dict[str, Any]:
    return {name: wire.plain(getattr(value, name)) for name in value.__slots__}


def recovery_from_wire(plain: dict[str, Any]) -> Recovery:
    verdict = plain["verdict"]
    return Recovery(
        **{
            **plain,
            "state": RecoveryState(plain["state"]),
            "verdict": VerdictKind(verdict) if verdict else None,
        }
    )


def judgement_to_wire(judgement: Judgement) -> tuple[Any, ...]:
    kind, reason, evidence = judgement.verdict
    plain = (recovery_to_wire(judgement.recovery), kind.value, reason, wire.plain(evidence))
    return *plain, judgement.due_in_ms


def judgement_from_wire(plain: tuple[Any, ...]) -> Judgement:
    recovery, kind, reason, evidence, due = plain
    return Judgement(recovery_from_wire(recovery), Verdict(VerdictKind(kind), reason, evidence), due)


def case_from_wire(plain: dict[str, Any]) -> Case:
    attempt = plain["attempt"]
    return Case(
        recovery=recovery_from_wire(plain["recovery"]),
        attempt=Attempt(
            **{**attempt, "state": State(attempt["state"]), "on_lost": OnLost(attempt["on_lost"])}
        ),
        message=Message(*plain["message"]),
        superseded=plain["superseded"],
        finished_before=plain["finished_before"],
        overdue=plain["overdue"],
    )
