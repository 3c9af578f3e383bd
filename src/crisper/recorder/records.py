"""From items on the wire to the records that the writer takes."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

from crisper.core.message import Kept, pack
from crisper.core.model import ChildLost, Claim, Finish, Note, Published, Record, Start
from crisper.core.preview import preview, preview_message
from crisper.core.preview.redaction import rules_of
from crisper.core.states import OnLost, State
from crisper.core.text import storable
from crisper.recorder import wire

#: Headers that are only for people and logs.
_SHOWN = ("argsrepr", "kwargsrepr")


class Reader:
    """Builds records; previews and packing happen here, off the worker's loop."""

    def __init__(self, *, preview_bytes: int, redact: tuple[str, ...], max_message_bytes: int) -> None:
        self._preview_bytes, self._redact = preview_bytes, redact
        self._max_message_bytes, self._rules = max_message_bytes, rules_of(redact)

    def read(self, item: tuple[Any, ...]) -> tuple[int, Record]:
        """`(when, record)`, `when` in milliseconds of the host's monotonic clock."""
        kind, at, *fields = item
        match kind:
            case wire.CLAIM | wire.CLAIM_AGAIN:
                return at, self._claim(*fields)
            case wire.START:
                return at, Start(*fields)
            case wire.FINISH:
                seq, claim_seq, task_id, state, reason, runtime_ms = fields
                return at, Finish(seq, claim_seq, task_id, State(state), reason, runtime_ms)
            case wire.CHILD_LOST:
                return at, ChildLost(*fields)
            case wire.NOTE:
                return at, Note(*fields)
        raise ValueError(f"unknown item on the wire: {kind!r}")

    def _claim(
        self,
        seq: int,
        task_id: str,
        message_id: str,
        identified: bool,
        name: str,
        queue: str,
        retries: int,
        redelivered: bool,
        acks_late: bool,
        dispatched: bool,
        tag: str,
        on_lost: str,
        loss_budget: int,
        body: bytes | str,
        content_type: str | None,
        content_encoding: str | None,
        headers: dict[str, Any],
        properties: dict[str, Any],
        exchange: str,
        routing_key: str,
        copy: bool,
    ) -> Claim:
        args, kwargs = preview_message(
            body,
            content_type or "",
            content_encoding or "",
            limit_bytes=self._preview_bytes,
            redact=self._redact,
        )
        told = self._without_secrets(headers)
        kept = Kept(body, content_type, content_encoding, told, properties, exchange, routing_key)
        return Claim(
            seq=seq,
            task_id=task_id,
            message_id=message_id,
            identified=identified,
            name=name,
            queue=queue,
            retries=retries,
            redelivered=redelivered,
            acks_late=acks_late,
            dispatched=dispatched,
            tag=tag,
            on_lost=OnLost(on_lost),
            loss_budget=loss_budget,
            message=pack(kept, limit=self._max_message_bytes),
            args_preview=args,
            kwargs_preview=kwargs,
            copy=copy,
        )

    def _without_secrets(self, headers: dict[str, Any]) -> dict[str, Any]:
        """Celery's own display of the arguments shows no more than ours; the body is what runs."""
        shown = {name: text for name in _SHOWN if isinstance(text := headers.get(name), str)}
        told = {name: self._rules.scrubbed(text) for name, text in shown.items()}
        return headers if told == shown else headers | told

    def preview(self, data: str) -> str:
        """What people may see of JSON that a task keeps for itself."""
        shown = preview(json.loads(data), limit_bytes=self._preview_bytes, redact=self._redact)
        return storable(shown)

    def published(self, note: tuple[Any, ...], scope: str, loss_budget: int) -> Published:
        """A note of a message that left, see `crisper.celery.publishing.note_of`."""
        (at, message_id, task_id, name, queue, retries, body, content_type, content_encoding, headers,
         properties, exchange, routing_key) = note  # fmt: skip
        args, kwargs = preview_message(
            body, content_type or "", content_encoding or "",
            limit_bytes=self._preview_bytes, redact=self._redact,
        )  # fmt: skip
        told = self._without_secrets(headers)
        kept = Kept(body, content_type, content_encoding, told, properties, exchange, routing_key)
        return Published(
            message_id=message_id,
            task_id=task_id,
            scope=scope,
            name=name,
            queue=queue,
            retries=int(retries),
            loss_budget=loss_budget,
            message=pack(kept, limit=self._max_message_bytes),
            args_preview=args,
            kwargs_preview=kwargs,
            age_ms=max(0, int((time.time() - at) * 1000)),
            delay_ms=_until_ms(headers.get("eta")),
        )


def _until_ms(eta: Any) -> int:
    """Until the task's time has come: a broker may keep it in a place of its own until then."""
    try:
        due = datetime.fromisoformat(str(eta))
        due = due if due.tzinfo else due.replace(tzinfo=UTC)
        return max(0, int((due.timestamp() - time.time()) * 1000))
    except (ValueError, OverflowError):
        return 0


#: Celery's word for how a body ended, in the words of the registry.
_SAID = {
    "SUCCESS": State.SUCCEEDED,
    "FAILURE": State.FAILED,
    "RETRY": State.RETRIED,
    "REVOKED": State.REVOKED,
    "IGNORED": State.SUCCEEDED,
    "REJECTED": State.REJECTED,
}


def read_word(item: tuple[Any, ...]) -> Finish | None:
    """A child's datagram `(w, claim seq, task id, state, runtime in ms)` as an outcome."""
    _, claim_seq, task_id, said, runtime_ms = item
    state = _SAID.get(said)
    if state is None:
        return None
    return Finish(-claim_seq, claim_seq, task_id, state, "its process said so itself", runtime_ms)
