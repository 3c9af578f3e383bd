"""What people see of a task's arguments: always JSON, always short, never a secret."""

from __future__ import annotations

import json
import math
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, IntEnum
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crisper.core.preview import DECODE_LIMIT, DEFAULT_REDACT, MAX_DEPTH, MIN_LIMIT, preview, preview_message
from crisper.core.preview.careful import careful
from crisper.core.preview.quick import quick as quickly
from crisper.core.preview.redaction import rules_of

JSON = "application/json"
PICKLE = "application/x-python-serialize"
CANARY = "c4n4ry-in-the-mine"

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=400) | st.binary(max_size=60)
)
keys = st.text(max_size=300) | st.sampled_from(
    ["id", "note", "user_password", "X-Authorization", "class_name"]
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=30)
        | st.dictionaries(keys | st.integers() | st.none(), inner, max_size=30)
        | st.tuples(inner, inner)
    ),
    max_leaves=80,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(max_size=60),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(keys, inner, max_size=8),
    max_leaves=40,
)
limits = st.integers(256, 6000)


def _forbidden(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def shown(value: object, **how: Any) -> Any:
    return json.loads(preview(value, **how), parse_constant=_forbidden)


def message(*parts: object) -> bytes:
    return json.dumps(parts).encode()


# --- What fits is shown whole


def test_a_plain_value_that_fits_is_shown_whole() -> None:
    value = {"ids": [1, 2.5, True, None], "note": "größer ✓"}
    assert preview(value) == '{"ids":[1,2.5,true,null],"note":"größer ✓"}'


def test_a_long_string_that_fits_beside_short_items_is_shown_whole() -> None:
    assert shown(["x" * 3500, 1, (2,)]) == ["x" * 3500, 1, [2]]


@given(json_values)
def test_the_quick_way_and_the_careful_way_agree(value: object) -> None:
    rules = rules_of(DEFAULT_REDACT)
    quick = quickly(value, 4096, rules)
    assert quick is None or quick == careful(value, 4096, rules)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((1, (2,)), [1, [2]]),
        (deque([1]), [1]),
        (OrderedDict(a=1), {"a": 1}),
        ({3}, {"__set__": [3]}),
        (frozenset(), {"__set__": []}),
        (datetime(2024, 5, 1, 9, tzinfo=UTC), "2024-05-01T09:00:00+00:00"),
        (date(2024, 5, 1), "2024-05-01"),
        (Decimal("1.50"), "1.50"),
        (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (b"\x00\xff", {"__bytes__": 2, "head": "00ff"}),
        (memoryview(b"ab"), {"__bytes__": 2, "head": "6162"}),
        (math.inf, {"__float__": "inf"}),
        (10**400, {"__truncated__": True, "type": "int", "bits": 1329}),
        (Enum("Color", "RED").RED, "Color.RED"),  # type: ignore[attr-defined]
        (IntEnum("Level", "LOW").LOW, "Level.LOW"),  # type: ignore[attr-defined]
        ({1: "a", "1": "b", None: "c", b"k": "d"}, {"1": "a", "1#1": "b", "null": "c", "k": "d"}),
        ("nul\0 and \ud800", "nul\ufffd and \ufffd"),
    ],
)
def test_each_type_has_its_documented_shape(value: object, expected: object) -> None:
    assert shown(value) == expected


def test_an_unknown_object_is_shown_by_its_repr_without_its_address() -> None:
    assert "__repr__" in (told := shown(object()))
    assert "0x" not in told["__repr__"]


# --- What does not fit says what was left out


def test_a_long_string_is_cut_and_its_length_told() -> None:
    told = shown("é" * 9000, limit_bytes=500)
    assert (told["type"], told["length"], told["size"]) == ("str", 9000, None)
    assert len(told["head"]) > 150


def test_a_long_list_tells_its_length_and_shows_its_first_items() -> None:
    told = shown(list(range(10_000)), limit_bytes=300)
    assert (told["__truncated__"], told["type"], told["length"]) == (True, "list", 10_000)
    assert told["head"][:3] == [0, 1, 2]


def test_a_large_dict_tells_its_first_keys() -> None:
    told = shown({f"key{n}": "v" * 50 for n in range(500)}, limit_bytes=600)
    assert (told["length"], told["keys"][0]) == (500, "key0")
    assert told["head"]["key0"] == "v" * 50


def test_a_large_item_leaves_room_for_the_items_after_it() -> None:
    told = shown({"blob": "x" * 10_000, "id": 7}, limit_bytes=400)
    assert told["id"] == 7
    assert told["blob"]["length"] == 10_000


def test_depth_is_bounded_and_says_so() -> None:
    value: list[Any] = []
    for _ in range(5000):
        value = [value]
    text = preview(value)
    assert text.count("[") == MAX_DEPTH
    assert '{"__truncated__":true,"type":"list","length":1,"size":null}' in text


def test_a_cycle_is_named() -> None:
    loop: dict[str, Any] = {"id": 1}
    loop["self"] = [loop]
    assert shown(loop) == {"id": 1, "self": [{"__cycle__": "dict"}]}


def test_a_value_met_twice_is_no_cycle() -> None:
    twice = {"a"}
    assert shown([twice, twice]) == [{"__set__": ["a"]}, {"__set__": ["a"]}]


def test_a_limit_too_small_for_any_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 64"):
        preview(1, limit_bytes=MIN_LIMIT - 1)


@given(values, limits)
def test_a_preview_is_valid_json_and_never_longer_than_its_limit(value: object, limit: int) -> None:
    text = preview(value, limit_bytes=limit)
    json.loads(text, parse_constant=_forbidden)
    assert len(text.encode()) <= limit


@given(values)
def test_the_smallest_limit_holds_too(value: object) -> None:
    text = preview(value, limit_bytes=MIN_LIMIT)
    json.loads(text)
    assert len(text.encode()) <= MIN_LIMIT


@pytest.mark.parametrize(
    "value",
    [
        ["x" * 1_000_000] * 40,
        [f"{n:010}" for n in range(1_000_000)],
        "é" * 20_000_000,
        b"x" * 40_000_000,
        ["://a:" * 1_000_000, "password" * 1_000_000, "@:" * 1_000_000],
    ],
    ids=["large strings", "many strings", "one string", "bytes", "worst for redaction"],
)
def test_40_mb_of_arguments_take_no_more_work_than_their_preview(value: object) -> None:
    started = time.process_time()
    assert len(preview(value).encode()) <= 4096
    assert time.process_time() - started < 0.02


# --- Hostile values


def test_a_value_whose_repr_raises_is_named_by_its_type_and_error() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise ValueError("no database")

    assert shown([Broken(), 1]) == [{"__unrepresentable__": "Broken", "error": "ValueError: no database"}, 1]


def test_an_error_that_cannot_be_told_is_named_alone() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    class Broken:
        def __repr__(self) -> str:
            raise Mute

    assert shown(Broken()) == {"__unrepresentable__": "Broken", "error": "Mute"}


def test_no_method_of_a_container_subclass_is_called() -> None:
    def never(*_: object) -> Any:
        raise AssertionError("called")

    called = ("__len__", "__iter__", "__getitem__", "__repr__", "items", "keys")
    hostile: dict[str, Any] = {**dict.fromkeys(called, never), "__class__": property(never)}
    plain: list[Any] = [[1], {"a": 1}, (1,), {1}, "text", b"b", 5, 2.5]
    for value in plain:
        ours = type("Ours", (type(value),), hostile)(value)
        assert shown([ours]) == shown([value])


def test_an_object_that_lies_about_its_class_is_known_by_its_type() -> None:
    class Liar:
        __class__ = dict  # type: ignore[assignment]

        def __repr__(self) -> str:
            return "a liar"

    assert shown(Liar()) == {"__repr__": "a liar"}


def test_an_infinite_iterable_is_never_iterated() -> None:
    def endless() -> Any:
        while True:
            raise AssertionError("iterated")
            yield

    source = endless()
    assert "generator object" in shown({"rows": source})["rows"]["__repr__"]
    with pytest.raises(AssertionError):  # it had not been started
        next(source)


# --- Redaction


@pytest.mark.parametrize(
    "key",
    [
        *("password", "user_password", "userPassword", "API-Key", "apiKey", "X-Authorization", "Set-Cookie"),
        *("sessionid", "card number", "customer_ssn", "customerSSN", "cvv2", "PRIVATE KEY", "\uff50assword"),
    ],
)
def test_a_value_under_a_secret_name_is_redacted_however_it_is_spelled(key: str) -> None:
    assert shown({key: CANARY}) == {key: "[redacted]"}
    assert CANARY not in preview([{"deep": ({key: [CANARY]},)}])


@pytest.mark.parametrize(
    "key", ["class_name", "className", "process_name", "business_number", "pass", "author"]
)
def test_a_name_that_only_resembles_a_secret_is_shown(key: str) -> None:
    assert shown({key: "kept"}) == {key: "kept"}


def test_other_names_can_be_redacted() -> None:
    assert shown({"iban": 1, "password": 2}, redact=("iban",)) == {"iban": "[redacted]", "password": 2}
    assert shown({"password": 2}, redact=()) == {"password": 2}


class Point(NamedTuple):
    x: int
    token: str


@dataclass
class Login:
    user: str
    password: str
    answer: str = field(repr=False, default=CANARY)


def test_fields_of_objects_are_redacted_by_name_and_hidden_where_their_author_hid_them() -> None:
    fields = {"user": "ann", "password": "[redacted]", "answer": "[redacted]"}
    assert shown(Login("ann", CANARY)) == {"__object__": "Login", "fields": fields}
    assert shown(Point(1, CANARY)) == {"__object__": "Point", "fields": {"x": 1, "token": "[redacted]"}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("amqp://ann:pw@rabbit:5672//", "amqp://ann:[redacted]@rabbit:5672//"),
        ("redis://:p@ss/w:rd@h/0, db://u:pw@h", "redis://:[redacted]@h/0, db://u:[redacted]@h"),
        ("https://ghp_0123456789abcdefghij@github.com/x", "https://[redacted]@github.com/x"),
        ("https://h:8080/users/@me", "https://h:8080/users/@me"),
        ("https://h/x?token=abc&page=2", "https://h/x?token=[redacted]&page=2"),
        ("ssh://git@host/repo", "ssh://git@host/repo"),
        ('{"password": "a b", "n": 1}', '{"password": [redacted], "n": 1}'),
        ("Client(api_key='abc', n=1)", "Client(api_key=[redacted], n=1)"),
        ("Authorization: Bearer abc", "Authorization: [redacted]"),
    ],
)
def test_a_secret_told_inside_a_text_is_redacted(text: str, expected: str) -> None:
    assert shown([text]) == [expected]


def test_a_secret_in_the_repr_of_an_object_is_redacted() -> None:
    class Client:
        def __repr__(self) -> str:
            return f"Client(host='h', token='{CANARY}')"

    assert shown(Client()) == {"__repr__": "Client(host='h', token=[redacted])"}


@given(st.integers(0, 900), limits)
def test_no_cut_shows_a_part_of_a_password(padding: int, limit: int) -> None:
    text = preview("x" * padding + f" amqp://u:{CANARY}@host/" + "y" * 6000, limit_bytes=limit)
    assert CANARY[:4] not in text


@given(values, st.sampled_from(DEFAULT_REDACT), st.sampled_from(["", "user_", "X-"]), values, limits)
def test_a_planted_secret_never_shows(
    around: object, name: str, prefix: str, beside: object, limit: int
) -> None:
    planted = {prefix + name.upper(): [CANARY, {"deeper": CANARY}]}
    for value in ([around, planted, beside], {"a": around, "b": {"c": planted}}, {**planted, "z": beside}):
        assert CANARY not in preview(value, limit_bytes=limit)


# --- Message bodies


@pytest.mark.parametrize(
    "form", [bytes.decode, bytes], ids=["text, as AMQP gives it", "bytes, as Redis gives it"]
)
def test_a_json_body_shows_its_arguments(form: Any) -> None:
    body = form(message([1, "a"], {"token": "t", "n": 2}, {"chain": None}))
    assert preview_message(body, JSON, "utf-8") == ('[1,"a"]', '{"token":"[redacted]","n":2}')


def test_a_protocol_1_body_shows_its_arguments() -> None:
    body = json.dumps({"task": "t", "id": "1", "args": [1], "kwargs": {"n": 2}})
    assert preview_message(body, JSON, "utf-8") == ("[1]", '{"n":2}')
    assert preview_message('{"task": "t", "args": [1]}', JSON, "utf-8") == ("[1]", "{}")


def test_the_special_types_of_kombu_are_shown_as_their_values() -> None:
    kombu_json = pytest.importorskip("kombu.utils.json")
    args = [datetime(2024, 5, 1, tzinfo=UTC), Decimal("1.5"), UUID(int=7), b"ab", b"\xff"]
    shown_args, _ = preview_message(kombu_json.dumps([args, {}, {}]), JSON, "utf-8")
    bytes_shown = [{"__bytes__": 2, "head": "6162"}, {"__bytes__": 1, "head": "ff"}]
    assert json.loads(shown_args) == ["2024-05-01T00:00:00+00:00", "1.5", str(UUID(int=7)), *bytes_shown]


@pytest.mark.parametrize("wrapped", [{"__type__": "uuid", "__value__": 1}, {"__type__": [], "__value__": 1}])
def test_what_only_resembles_a_special_type_is_shown_as_it_stands(wrapped: object) -> None:
    assert json.loads(preview_message(message([wrapped], {}, {}), JSON, "utf-8")[0]) == [wrapped]


def undecoded(body: bytes | str, content_type: str | None = JSON, encoding: str | None = "utf-8") -> Any:
    args, kwargs = preview_message(body, content_type, encoding, limit_bytes=300)
    assert args == kwargs
    return json.loads(args)


def test_a_pickle_is_described_and_never_opened() -> None:
    body = b"cos\nsystem\n(S'exit 1'\ntR."
    assert undecoded(body, PICKLE, "binary") == {
        "__undecoded__": PICKLE,
        "size": 25,
        "sha256": sha256(body).hexdigest()[:16],
        "hashed": 25,
        "why": "Crisper never unpickles",
    }


@pytest.mark.parametrize(
    "content_type", ["application/x-msgpack", "application/x-yaml", "x" * 5000, "", None]
)
def test_any_other_content_type_is_described(content_type: str | None) -> None:
    assert undecoded(message([], {}, {}), content_type)["why"] == "only application/json is decoded"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"[1, ", "broken JSON: JSONDecodeError"),
        (b"\xff\xfe", "broken JSON: UnicodeDecodeError"),
        ("[" * 100_000, "broken JSON: RecursionError"),
        (message([], {}), "not the shape of a Celery message"),
        (message({}, [], {}), "not the shape of a Celery message"),
        (b'{"args": 1}', "not the shape of a Celery message"),
        (b"7", "not the shape of a Celery message"),
    ],
)
def test_a_body_that_is_no_message_is_described(body: bytes | str, why: str) -> None:
    assert undecoded(body)["why"].startswith(why)


def test_a_body_over_the_decode_limit_is_described_by_its_first_mebibyte() -> None:
    told = undecoded(message(["x" * DECODE_LIMIT], {}, {}))
    assert told["why"].startswith("larger than the decode limit")
    assert told["hashed"] == DECODE_LIMIT < told["size"]


def test_a_body_just_within_the_decode_limit_is_decoded() -> None:
    body = message(["x" * (DECODE_LIMIT - len(message([""], {}, {})))], {}, {})
    assert len(body) == DECODE_LIMIT
    assert "__undecoded__" not in preview_message(body, JSON, "utf-8")[0]


def test_an_encoding_other_than_utf_8_is_not_decoded() -> None:
    assert undecoded(b"[]", JSON, "utf-16")["why"] == "its content encoding is not UTF-8"


@given(st.binary(max_size=200) | st.text(max_size=200), st.sampled_from([JSON, PICKLE, None]), limits)
def test_any_body_has_previews_that_are_json_and_short(
    body: bytes | str, kind: str | None, limit: int
) -> None:
    for text in preview_message(body, kind, None, limit_bytes=limit):
        json.loads(text)
        assert len(text.encode()) <= limit
