"""From the wire to what is on record."""

from __future__ import annotations

import json
from typing import Any

import pytest

from crisper.core.message import unpack
from crisper.core.model import Claim
from crisper.core.preview import DEFAULT_REDACT
from crisper.recorder import wire
from crisper.recorder.records import Reader

READER = Reader(preview_bytes=4096, redact=DEFAULT_REDACT, max_message_bytes=1 << 20)
BODY = json.dumps([[], {"password": "CANARY", "colour": "red"}, {}]).encode()


def claim(headers: dict[str, Any]) -> Claim:
    told = ("t", "m", True, "app.add", "celery", 0, False, True, False, "tag", "resend", 3)
    message = (BODY, "application/json", "utf-8", headers, {"reply_to": "r"}, "", "celery", False)
    _, record = READER.read((wire.CLAIM, 7, 1, *told, *message))
    assert isinstance(record, Claim)
    return record


@pytest.mark.parametrize(
    "shown",
    [
        "{'password': 'CANARY', 'colour': 'red'}",
        "{'dsn': 'postgresql://ann:CANARY@db/shop', 'colour': 'red'}",
        "{'colour': 'red', 'api_key': 'CANARY-and-more...}",
    ],
)
def test_what_celery_shows_of_arguments_is_kept_without_secrets_as_previews_are(shown: str) -> None:
    record = claim({"id": "t", "argsrepr": f"({shown},)", "kwargsrepr": shown, "note": "untouched: CANARIES"})
    headers = unpack(record.message).headers
    assert "CANARY" not in f"{headers['argsrepr']}{headers['kwargsrepr']}{record.kwargs_preview}"
    assert "'colour': 'red'" in headers["kwargsrepr"]
    assert (headers["id"], headers["note"]) == ("t", "untouched: CANARIES")


def test_the_body_is_kept_as_it_is_for_it_is_what_runs() -> None:
    assert unpack(claim({"kwargsrepr": "{'password': 'CANARY'}"}).message).body == BODY


def test_headers_that_show_nothing_are_kept_as_they_came() -> None:
    headers = {"id": "t", "argsrepr": "(1, 2)", "kwargsrepr": None, "timelimit": [None, None]}
    assert unpack(claim(headers).message).headers == headers
