"""Accounts in a file: one line each, `name:role:scrypt:n:r:p:salt:hash`. The file holds no password."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from crisper.errors import SettingsError
from crisper.faces.serve.access import Role

#: 32 MiB and some 80 ms for each guess (RFC 7914; OWASP's password storage sheet gives this triple).
N, R, P = 2**15, 8, 3
_MEMORY = 128 * N * R * 2
_SALT_BYTES = 16
SHORTEST_PASSWORD = 8
LONGEST_PASSWORD = 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}", re.ASCII)
_LARGEST_FILE = 1 << 20

#: Wrong guesses at one name within a minute; then nobody signs in under it until the minute is over.
GUESSES, WITHIN_SECONDS = 10, 60.0


class TooManyGuesses(Exception):
    """Somebody is guessing at this name."""


@dataclass(frozen=True, slots=True)
class Account:
    name: str
    role: Role
    salt: bytes
    hash: bytes

    def line(self) -> str:
        salt, hash = (base64.b64encode(part).decode() for part in (self.salt, self.hash))
        return f"{self.name}:{self.role.name.lower()}:scrypt:{N}:{R}:{P}:{salt}:{hash}"

    def is_password(self, password: str) -> bool:
        return secrets.compare_digest(_hash(password, self.salt), self.hash)


def _hash(password: str, salt: bytes) -> bytes:
    given = password.encode("utf-8", "surrogatepass")[:LONGEST_PASSWORD]
    return hashlib.scrypt(given, salt=salt, n=N, r=R, p=P, maxmem=_MEMORY)


def account(name: str, role: Role, password: str) -> Account:
    """Raises `SettingsError` for a name or a password that will not do."""
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"{name[:40]!r} is no account's name: up to 64 letters, digits and . _ @ + -, the first a letter"
            " or a digit"
        )
    if not SHORTEST_PASSWORD <= len(password.encode("utf-8", "surrogatepass")) <= LONGEST_PASSWORD:
        raise SettingsError(f"a password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} bytes")
    salt = secrets.token_bytes(_SALT_BYTES)
    return Account(name, role, salt, _hash(password, salt))


def read(path: Path) -> dict[str, Account]:
    """Raises `SettingsError` for a file that cannot be read, makes no sense, or that others may write."""
    try:
        with path.open(encoding="utf-8") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & (stat.S_IWGRP | stat.S_IWOTH):
                raise SettingsError(f"{path}: others may write it, so they could sign in: chmod go-w {path}")
            lines = file.read(_LARGEST_FILE).splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is no text"
        raise SettingsError(f"cannot read the accounts in {path}: {why}") from exc
    told = [(n, line) for n, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    accounts = [_read(path, n, line) for n, line in told]
    if len({one.name for one in accounts}) < len(accounts):
        raise SettingsError(f"{path}: a name stands there twice")
    return {one.name: one for one in accounts}


def _read(path: Path, n: int, line: str) -> Account:
    match line.split(":"):
        case [name, role, "scrypt", cost, block, lanes, salt, hash] if (cost, block, lanes) == (
            *(str(N), str(R), str(P)),
        ) and _NAME.fullmatch(name):
            try:
                salted, hashed = (base64.b64decode(part, validate=True) for part in (salt, hash))
                return Account(name, Role[role.upper()], salted, hashed)
            except (KeyError, ValueError, binascii.Error):
                pass
    raise SettingsError(f"{path}, line {n}: no account; write it with crisper serve --add-account NAME")


def add(path: Path, new: Account) -> None:
    """Into the file, which only its owner can read then; another of that name is replaced."""
    accounts = read(path) if path.exists() else {}
    accounts[new.name] = new
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write("".join(f"{one.line()}\n" for one in accounts.values()))
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


class Accounts:
    """Checks passwords, slowly on purpose: from a thread, a few at a time."""

    def __init__(self, known: dict[str, Account], clock: Callable[[], float] = time.monotonic) -> None:
        self._known, self._clock = known, clock
        self._wrong: dict[str, list[float]] = {}
        self._nobody = account("nobody", Role.VIEWER, secrets.token_hex(_SALT_BYTES))

    def check(self, name: str, password: str) -> Account | None:
        """The account, by its exact name. Raises `TooManyGuesses`. A name that is not there takes as long."""
        known = self._known.get(name)
        guessed = name if known else ""  # one entry for all that are not there, so that memory stays bounded
        now = self._clock()
        wrong = [at for at in self._wrong.get(guessed, ()) if now - at < WITHIN_SECONDS]
        if len(wrong) >= GUESSES:
            raise TooManyGuesses
        right = (known or self._nobody).is_password(password)
        if known is not None and right:
            self._wrong.pop(guessed, None)
            return known
        self._wrong[guessed] = [*wrong, now]
        return None
