"""`crisper alerts`, and the settings that it goes by."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import pytest

from crisper.engine.alerts.incident import KINDS
from crisper.errors import SettingsError
from crisper.settings import load
from tests.alerts.receiver import SECRET, Receiver, receiving
from tests.faces.conftest import Run

NOWHERE = "sqlite:////none"


def test_a_test_goes_to_every_channel_and_says_what_came_back(
    run: Run,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with receiving() as chat:
        monkeypatch.setenv("CRISPER_ALERTS_CHAT", f"json://127.0.0.1:{chat.server_port}/hunter2")
        result = run(NOWHERE, "alerts", "test")
        assert (result.exit_code, result.stdout) == (
            0, "webhook: 127.0.0.1 answered 200\nchat 1: chat 1 took the message\n",
        )  # fmt: skip
        [event], [said] = receiver.got, chat.got
        assert event["type"] == "crisper.test.begun"
        assert (said["title"], said["message"]) == ("Crisper: a test of the alerts", "Nothing is wrong.")
        chat.answers = receiver.answers = 500
        result = run(NOWHERE, "alerts", "test", "--json")
        assert result.exit_code == 1
        assert [one["told"] for one in json.loads(result.stdout)["alerts"]] == [False, False]
        assert "hunter2" not in result.output


def test_without_a_channel_it_says_what_to_set(run: Run) -> None:
    result = run(NOWHERE, "alerts", "test")
    assert (result.exit_code, "crisper_alerts_webhook" in result.output) == (2, True)


@pytest.mark.parametrize(("module", "extra"), [("standardwebhooks", "alerts"), ("apprise", "chat")])
def test_without_its_packages_it_says_what_to_install(
    run: Run,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    extra: str,
) -> None:
    if extra == "chat":
        monkeypatch.setenv("CRISPER_ALERTS_CHAT", "json://127.0.0.1/")
    for name in [
        name for name in sys.modules if name in ("crisper.faces.alerts.webhook", "crisper.faces.alerts.chat")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    result = run(NOWHERE, "alerts", "test")
    assert result.exit_code == 2
    assert f"pip install 'celery-crisper[{extra}]'" in result.output


def test_an_address_that_apprise_does_not_know_is_named_by_its_number(run: Run, monkeypatch: Any) -> None:
    monkeypatch.setenv("CRISPER_ALERTS_CHAT", "nosuch://hunter2")
    result = run(NOWHERE, "alerts", "test")
    assert (result.exit_code, "number 1" in result.output, "hunter2" in result.output) == (2, True, False)


def test_a_secret_that_it_makes_is_one_that_it_takes(run: Run) -> None:
    made = run(NOWHERE, "alerts", "secret").stdout.strip()
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/=]{44}", made)
    load({"crisper_alerts_webhook": "https://hooks.example/x", "crisper_alerts_secret": made}, {})


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"webhook": "https://hooks.example/x"}, "crisper_alerts_secret must be whsec_"),
        ({"webhook": "https://hooks.example/x", "secret": "whsec_c2hvcnQ="}, "crisper_alerts_secret must be"),
        ({"webhook": "http://hooks.example/x", "secret": SECRET}, "must be https://"),
        ({"webhook": "ftp://hooks.example/x", "secret": SECRET, "private": True}, "must be https://"),
        ({"webhook": "https://me:hunter2@hooks.example/x", "secret": SECRET}, "without user and password"),
        ({"on": ["worker_lost", "workers"]}, "there is no incident 'workers'. Choose of worker_lost,"),
    ],
)
def test_settings_that_make_no_sense_say_what_to_set(conf: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load({f"crisper_alerts_{name}": value for name, value in conf.items()}, {})
    assert words in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_an_empty_choice_tells_nothing_and_the_default_tells_all() -> None:
    assert load({}, {}).alerts_on == KINDS
    assert load({"crisper_alerts_on": []}, {}).alerts_on == ()
