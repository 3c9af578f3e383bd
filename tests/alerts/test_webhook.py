"""The webhook: where it may go, what it says, and that it is signed."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
import time
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from standardwebhooks import Webhook as Signer

from crisper.engine.alerts.incident import QUARANTINE, WORKER_LOST, Incident
from crisper.errors import Refused
from crisper.faces.alerts import webhook
from crisper.faces.alerts.address import checked, is_public, lookup
from crisper.faces.alerts.message import Message, a_test, as_cloud_event, of_incident
from crisper.faces.alerts.webhook import NotDelivered, Webhook
from tests.alerts.receiver import SECRET, receiving

MESSAGE = a_test("test-1", 1_700_000_000_000)
HOSTILE = "x\r\nSubject: y \x1b[31m\u202e<!channel> @everyone <script>"


# -- where it may go -----------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "0x7f000001", "2130706433", "0177.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::]",
     "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255",
     "[::ffff:127.0.0.1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b:1::1]", "[2002:7f00:1::]", "[2001:0:7f00:1::]",
     "[::127.0.0.1]", "[fe80::1]", "[fc00::1]", "[ff02::1]", "192.0.2.1", "[2001:db8::1]"],
)  # fmt: skip
def test_no_form_of_a_private_address_is_sent_to(host: str) -> None:
    with pytest.raises(Refused):
        checked(host.strip("[]"), 443, private=False)


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700::1111"])
def test_a_public_address_is(address: str) -> None:
    assert is_public(address)
    assert checked("hooks.example", 443, private=False, find=lambda host, port: [address]) == address


def test_one_private_address_among_public_ones_refuses_the_name() -> None:
    with pytest.raises(Refused, match="crisper_alerts_private = True"):
        checked("hooks.example", 443, private=False, find=lambda host, port: ["1.1.1.1", "10.0.0.1"])


def test_a_name_is_looked_up_once_and_that_very_address_is_connected_to() -> None:
    """DNS rebinding: the second answer would lead elsewhere."""
    with receiving() as there, receiving() as elsewhere:
        answers = iter([["127.0.0.1"], ["127.0.0.1"]])
        asked: list[str] = []

        def find(host: str, port: int) -> list[str]:
            asked.append(host)
            return next(answers)

        hook = Webhook(f"http://rebinding.example:{there.server_port}/x", SECRET, private=True, find=find)
        hook.send(MESSAGE)
        assert (asked, len(there.got), elsewhere.got) == (["rebinding.example"], 1, [])
        refusing = Webhook("https://rebinding.example/x", SECRET, private=False, find=find)
        with pytest.raises(Refused):
            refusing.send(MESSAGE)


def test_a_redirect_is_not_followed() -> None:
    with receiving() as there, receiving() as inside:
        there.answers, there.headers = 307, {"Location": inside.url}
        with pytest.raises(NotDelivered, match="answered 307, a redirect, which is not followed"):
            Webhook(there.url, SECRET, private=True).send(MESSAGE)
        assert inside.got == inside.refused == []


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as there, receiving() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.server_port}")
        Webhook(there.url, SECRET, private=True).send(MESSAGE)
        assert (len(there.got), proxy.got) == (1, [])


def test_an_error_is_said_without_what_came_back() -> None:
    with receiving() as there:
        there.answers, there.headers = 500, {"X-Secret": "hunter2"}
        with pytest.raises(NotDelivered, match=r"^the webhook at 127\.0\.0\.1 answered 500$"):
            Webhook(there.url + "?key=hunter2", SECRET, private=True).send(MESSAGE)


def test_one_who_does_not_answer_holds_nobody_up() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/secret-path"
        began = time.monotonic()
        with pytest.raises(NotDelivered) as raised:
            Webhook(url, SECRET, private=True).send(MESSAGE)
    assert time.monotonic() - began < 6
    assert "secret-path" not in str(raised.value)


def test_one_who_answers_a_byte_at_a_time_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "LONGEST_SECONDS", 0.5)
    with closing(socket.create_server(("127.0.0.1", 0))) as slow:

        def drip() -> None:
            peer, _ = slow.accept()
            with peer, suppress(OSError):
                for byte in b"HTTP/1.1 200 " + b"k" * 1000:
                    peer.send(bytes([byte]))
                    time.sleep(0.05)

        threading.Thread(target=drip, daemon=True).start()
        began = time.monotonic()
        with pytest.raises(NotDelivered):
            Webhook(f"http://127.0.0.1:{slow.getsockname()[1]}/", SECRET, private=True).send(MESSAGE)
    assert time.monotonic() - began < 5


def test_over_https_the_certificate_must_be_the_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", "/CN=hooks.example", "-addext", "subjectAltName=DNS:hooks.example",
         "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    secure = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    secure.load_cert_chain(cert, key)
    with receiving(secure) as there:

        def hook(host: str) -> Webhook:
            url = f"https://{host}:{there.server_port}/x"
            return Webhook(url, SECRET, private=True, find=lambda host, port: ["127.0.0.1"])

        with pytest.raises(NotDelivered):  # nobody vouches for it yet
            hook("hooks.example").send(MESSAGE)
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        assert hook("hooks.example").send(MESSAGE) == "hooks.example answered 200"
        with pytest.raises(NotDelivered):
            hook("other.example").send(MESSAGE)


def test_a_host_that_does_not_exist_is_said() -> None:
    with pytest.raises(Refused, match="there is no address of"):
        checked("no-such-host.invalid", 443, private=True, find=lookup)


# -- what it says ---------------------------------------------------------------


def test_the_signature_is_that_of_the_specification() -> None:
    when = datetime.fromtimestamp(1614265330, UTC)
    signature = Signer(SECRET).sign("msg_p5jXN8AQM9LWM0D4loKWxJek", when, '{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_message_is_a_cloud_event_in_ascii() -> None:
    lost = Incident("abc", WORKER_LOST, 1_700_000_000_000, {"w": {"worker": "celery@ä", "how": "silence"}})
    event = json.loads(as_cloud_event(of_incident(lost, "r1")).decode("ascii"))
    assert event == {
        "specversion": "1.0", "id": "abc.begun", "source": "/crisper/r1", "type": "crisper.worker_lost.begun",
        "subject": "worker_lost", "time": "2023-11-14T22:13:20.000Z", "datacontenttype": "application/json",
        "data": {
            "incident": "abc", "kind": "worker_lost", "stage": "begun", "since": "2023-11-14T22:13:20.000Z",
            "title": "1 worker was declared lost", "count": 1,
            "items": [{"worker": "celery@ä", "how": "silence"}], "advice": event["data"]["advice"],
        },
    }  # fmt: skip


def told(**about: str) -> Message:
    tasks = {str(number): {"task_id": HOSTILE, "name": HOSTILE, "losses": 4, **about} for number in range(12)}
    return of_incident(Incident("abc", QUARANTINE, 1_700_000_000_000, tasks), "r1")


def test_a_hostile_name_is_text_and_gives_no_orders() -> None:
    message = told()
    lines = message.body.splitlines()
    assert len(lines) == 12
    assert lines[10] == "and 2 more"
    for word in ("\x1b", "\u202e", "@everyone", "<!channel>", "<script>", "\r"):
        assert word not in message.title + message.body
    assert json.loads(as_cloud_event(message))["data"]["items"][0]["name"] == HOSTILE  # data stays data


def test_a_name_of_any_length_makes_no_long_message() -> None:
    assert len(told(name="x" * 100_000).body) < 5000
