"""Accounts: what stands in their file, and how slowly one guesses."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from crisper.errors import SettingsError
from crisper.faces.cli import cli
from crisper.faces.serve.access import Role
from crisper.faces.serve.accounts import (
    GUESSES,
    WITHIN_SECONDS,
    Account,
    Accounts,
    TooManyGuesses,
    account,
    read,
)
from crisper.faces.serve.sessions import IDLE_SECONDS, LONGEST_SECONDS, MOST, Sessions
from tests.serve.conftest import PASSWORD


def add(file: Path, name: str, *words: str, password: str = PASSWORD) -> Result:
    arguments = ["serve", "--accounts", str(file), "--add-account", name, *words]
    return CliRunner().invoke(cli, arguments, input=f"{password}\n")


def test_an_account_is_written_and_read_and_its_password_is_not(tmp_path: Path) -> None:
    file = tmp_path / "accounts"
    assert add(file, "ann", "--role", "operator").exit_code == 0
    assert add(file, "vic").exit_code == 0
    assert PASSWORD not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    known = read(file)
    assert {name: one.role for name, one in known.items()} == {"ann": Role.OPERATOR, "vic": Role.VIEWER}
    assert known["ann"].is_password(PASSWORD)
    assert not known["ann"].is_password(PASSWORD + " ")


def test_a_second_account_of_a_name_takes_its_place(tmp_path: Path) -> None:
    file = tmp_path / "accounts"
    add(file, "ann")
    add(file, "ann", "--role", "operator", password="another password")
    assert read(file)["ann"].is_password("another password")
    assert len(file.read_text().splitlines()) == 1


def test_two_accounts_with_one_password_do_not_show_it(known: dict[str, Account]) -> None:
    assert known["ann"].hash != known["vic"].hash


@pytest.mark.parametrize("name", ["", "a:b", "a b", "a\nb", "é", ".ann", "a" * 65])
def test_a_name_that_will_not_do_is_refused(tmp_path: Path, name: str) -> None:
    result = add(tmp_path / "accounts", name)
    assert result.exit_code == 2, result.output
    assert "no account's name" in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("password", ["", "short", "x" * 1025])
def test_a_password_that_will_not_do_is_refused(tmp_path: Path, password: str) -> None:
    assert add(tmp_path / "accounts", "ann", password=password).exit_code == 2


@pytest.mark.parametrize(
    "text",
    [
        *("ann", "ann:operator:plain:secret", "ann:admin:scrypt:32768:8:3:YQ==:YQ=="),
        *("ann:operator:scrypt:2:8:3:YQ==:YQ==", "ann:operator:scrypt:32768:8:3:!:YQ==", "\x00\xff"),
        "ann:viewer:scrypt:32768:8:3:YQ==:YQ==\nann:operator:scrypt:32768:8:3:YQ==:YQ==",
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "accounts"
    file.write_bytes(text.encode("latin-1"))
    file.chmod(0o600)
    with pytest.raises(SettingsError, match="accounts"):
        read(file)


def test_a_file_that_others_may_write_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "accounts"
    add(file, "ann")
    file.chmod(0o622)
    with pytest.raises(SettingsError, match="chmod"):
        read(file)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        read(tmp_path / "accounts")


@pytest.mark.parametrize("name", ["ann", "nobody at all"])
def test_whoever_guesses_waits(known: dict[str, Account], name: str) -> None:
    now = [0.0]
    accounts = Accounts(known, clock=lambda: now[0])
    for _ in range(GUESSES):
        assert accounts.check(name, "a guess") is None
    with pytest.raises(TooManyGuesses):
        accounts.check(name, PASSWORD)
    vic = accounts.check("vic", PASSWORD)
    assert vic is not None
    now[0] = WITHIN_SECONDS + 1
    assert (accounts.check(name, PASSWORD) is not None) is (name == "ann")


def test_memory_does_not_grow_with_the_names_that_are_guessed(known: dict[str, Account]) -> None:
    accounts = Accounts(known)
    for n in range(3):
        accounts.check(f"name {n}", "a guess")
    assert len(accounts._wrong) == 1


def test_an_accounts_line_is_read_back() -> None:
    one = account("ann", Role.VIEWER, PASSWORD)
    assert one.line().startswith("ann:viewer:scrypt:")


# -- sessions ----------------------------------------------------------------


@pytest.mark.parametrize(("later", "there"), [(IDLE_SECONDS - 1, True), (IDLE_SECONDS + 1, False)])
def test_a_session_ends_when_it_is_idle(later: float, there: bool) -> None:
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    id = sessions.begin("ann", Role.VIEWER)
    now[0] = later
    assert (sessions.who(id) is not None) is there


def test_a_session_that_is_never_idle_ends_too() -> None:
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    id = sessions.begin("ann", Role.VIEWER)
    while now[0] < LONGEST_SECONDS:
        assert sessions.who(id) is not None
        now[0] += IDLE_SECONDS - 1
    assert sessions.who(id) is None


def test_there_are_so_many_sessions_and_no_more() -> None:
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    first = sessions.begin("ann", Role.VIEWER)
    for n in range(MOST):
        now[0] = n + 1.0
        last = sessions.begin("vic", Role.VIEWER)
    assert sessions.who(first) is None
    assert sessions.who(last) is not None
