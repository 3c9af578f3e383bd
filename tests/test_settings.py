"""Settings: what makes no sense is an error that says what to set."""

from __future__ import annotations

import math
from typing import Any

import pytest

from crisper.errors import SettingsError
from crisper.settings import Settings, load


@pytest.mark.parametrize(
    ("conf", "environment", "sentence"),
    [
        ({"crisper_leese": 30}, {}, "unknown setting crisper_leese. Did you mean crisper_lease?"),
        ({"crisper_registry_ulr": "x"}, {}, "Did you mean crisper_registry_url?"),
        ({}, {"CRISPER_LEESE": "30"}, "unknown setting CRISPER_LEESE. Did you mean CRISPER_LEASE?"),
        ({}, {"CRISPER_REGISTRY": "x"}, "Did you mean CRISPER_REGISTRY_URL?"),
        ({"crisper_wibble": 1}, {}, "unknown setting crisper_wibble. Known, after crisper_: alerts_chat,"),
    ],
)
def test_an_unknown_setting_names_the_one_that_was_meant(
    conf: dict[str, Any], environment: dict[str, str], sentence: str
) -> None:
    with pytest.raises(SettingsError) as raised:
        load(conf, environment)
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    "name",
    [
        "CRISPER_SERVICE_HOST",
        "CRISPER_PORT_5432_TCP_ADDR",
        "CRISPER_REGISTRY_SERVICE_HOST",
        "CRISPER_REGISTRY_PORT",
        "CRISPER_REGISTRY_PORT_5432_TCP",
        "CRISPER_REGISTRY_SERVICE_PORT_POSTGRES",
        "CRISPER_TEST_POSTGRES_URL",
    ],
)
def test_what_kubernetes_puts_beside_a_service_is_no_misspelt_setting(name: str) -> None:
    assert load({}, {name: "tcp://10.0.0.1:5432"}) == Settings()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("lease", math.nan, "crisper_lease = nan: expected a number (s)"),
        ("lease", "nan", "expected a number (s)"),
        ("lease", math.inf, "expected a number (s)"),
        ("lease", [30], "crisper_lease = [30]: expected a number (s)"),
        ("lease", None, "expected a number (s)"),
        ("lease", True, "expected a number (s)"),
        ("lease", "", "expected a number (s)"),
        ("lease", -1, "must be between 0.15 and 86400 s"),
        ("lease", 1e9, "must be between"),
        ("heartbeat_interval", 0, "must be between 0.05 and 3600 s"),
        ("sweep_interval", 6, "Set it to 5 or less"),
        ("recovery_rate", math.nan, "expected a number (per s)"),
        ("loss_budget", 2.5, "expected a whole number"),
        ("loss_budget", math.inf, "expected a whole number"),
        ("loss_budget", -1, "must be between 0 and 1000000"),
        ("loss_budget", 10**40, "must be between"),
        ("max_message_bytes", -1, "must be between 0 and 536870912 bytes"),
        ("registry_url", "", "crisper_registry_url is empty"),
        ("registry_url", " ", "crisper_registry_url is empty"),
        ("registry_url", None, "expected text"),
        ("registry_url", ["postgresql://"], "expected text"),
        ("on_lost", "Resend", "must be one of auto, resend, fail, hold"),
        ("on_lost", ["resend"], "expected text"),
        ("recording", "lax", "must be one of strict, relaxed"),
        ("redact", 5, "expected names, as a list or separated by commas"),
        ("redact", [5], "expected names"),
        ("rabbitmq_management_url", "rabbit:15672", "no address of an HTTP API. Set it to http://user"),
        ("rabbitmq_management_url", "amqp://me:secret@rabbit", "no address of an HTTP API"),
        ("enabled", "maybe", "expected true or false"),
        ("enabled", None, "expected true or false"),
    ],
)
def test_a_value_that_makes_no_sense_says_what_would(name: str, value: Any, sentence: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load({f"crisper_{name}": value}, {})
    assert sentence in str(raised.value)
    assert f"crisper_{name}" in str(raised.value)


def test_a_lease_shorter_than_three_heartbeats_says_what_to_set() -> None:
    with pytest.raises(SettingsError, match="Set crisper_lease to 12 or more, or crisper_heartbeat_interval"):
        load({"crisper_lease": 11}, {})
    assert load({"crisper_lease": 12, "crisper_sweep_interval": 1}, {}).lease == 12


def test_values_are_read_from_what_environments_and_files_hold() -> None:
    environment = {"CRISPER_LEASE": "30", "CRISPER_ENABLED": "no", "CRISPER_LOSS_BUDGET": "5",
                   "CRISPER_REDACT": "pin, iban,"}  # fmt: skip
    read = load({"crisper_lease": 25, "crisper_recovery_rate": 100}, environment)
    assert (read.lease, read.enabled, read.loss_budget) == (30.0, False, 5)
    assert (read.recovery_rate, read.redact) == (100.0, ("pin", "iban"))


def test_a_management_url_that_is_refused_keeps_its_password_to_itself() -> None:
    with pytest.raises(SettingsError) as raised:
        load({"crisper_rabbitmq_management_url": "http://me:a-secret@rabbit:port"}, {})
    assert "a-secret" not in str(raised.value)
    given = "https://me:a-secret@rabbit/under/a/path"
    assert load({"crisper_rabbitmq_management_url": given}, {}).rabbitmq_management_url == given
