"""Cases and recoveries on the wire: the same values in types that marshal knows."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from crisper.core.model import Attempt, Case, Message, Recovery
from crisper.core.states import OnLost, RecoveryState, State, VerdictKind
from crisper.recorder import wire


def case_to_wire(case: Case) -> dict[str, Any]:
    """A case in plain types."""
    whole: dict[str, Any] = wire.plain(asdict(case))
    whole["message"] = tuple(case.message)
    return whole


def recovery_to_wire(recovery: Recovery) -> dict[str, Any]:
    whole: dict[str, Any] = wire.plain(asdict(recovery))
    return whole


def recovery_from_wire(plain: dict[str, Any]) -> Recovery:
    verdict = plain["verdict"]
    return Recovery(
        **{
            **plain,
            "state": RecoveryState(plain["state"]),
            "verdict": VerdictKind(verdict) if verdict else None,
        }
    )


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
