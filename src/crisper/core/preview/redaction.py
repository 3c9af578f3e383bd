"""What is not shown: values under names that say they are secret, and passwords within texts."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from unicodedata import normalize

if TYPE_CHECKING:
    pass

DEFAULT_REDACT: Final = (
    *("password", "passwd", "secret", "token", "authorization", "api_key", "apikey", "credential"),
    *("private_key", "cookie", "session", "card_number", "cvv", "ssn"),
)
"""Parts of a key whose value is not shown. Case, `-` and `_` do not count. A part of up to three letters must
begin or end a word of the key, or "ssn" would hide every `class_name`."""

#: A longer key is no name; its value is hidden rather than the key searched.
LONGEST_NAME: Final = 256
REDACTED: Final = "[redacted]"

_SEPARATORS = re.compile(r"[\W_]+")
_WORD_ENDS = re.compile(r"[\W_\d]+|(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_URL_REST = re.compile(r'://(?:(?!://)[^\s"<>])*')
_PORT = re.compile(r"\d+[/?#]")
# What may stand after `password=` in a text: a bracketed value hides the rest, for its end cannot be known.
_SAID_VALUE = (
    r"""(?:[\[{(].*|(?:(?:bearer|basic|digest|token)\s+)?[^\s,;&"')}\]]*"""
    r"""(?:"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?)?)"""
)


class Rules:
    """One set of redacted names: asks of a key whether it hides its value, and cleans texts."""

    def __init__(self, redact: tuple[str, ...]) -> None:
        terms = {term for term in map(_squeezed, redact) if term}
        self._parts = tuple(term for term in terms if len(term) > 3)
        self._words = tuple(term for term in terms if len(term) <= 3)
        self._said = _said(redact) if terms else None
        self.hides = lru_cache(maxsize=4096)(self._hides)

    def _hides(self, key: str) -> bool:
        squeezed = _squeezed(key)
        return any(part in squeezed for part in self._parts) or any(
            word.startswith(self._words) or word.endswith(self._words)
            for word in map(str.casefold, _WORD_ENDS.split(key))
        )

    def scrubbed(self, text: str, *, is_cut: bool = False) -> str:
        """The text without the passwords of URLs and without what follows a redacted name and `=` or `:`."""
        if ":" not in text and "=" not in text:
            return text
        if "://" in text:
            end = len(text) if is_cut else -1
            text = _URL_REST.sub(lambda url: _without_password(url[0], url.end() == end), text)
        return self._said.sub(rf"\1{REDACTED}", text) if self._said else text


@lru_cache(maxsize=8)
def rules_of(redact: tuple[str, ...]) -> Rules:
    return Rules(redact)


def _squeezed(key: str) -> str:
    return _SEPARATORS.sub("", normalize("NFKC", key).casefold())


def _said(redact: tuple[str, ...]) -> re.Pattern[str]:
    names = ("[-_ ]?".join(map(re.escape, _SEPARATORS.split(term.strip("-_")))) for term in redact)
    either = "|".join(name if len(name) > 3 else rf"(?<![^\W_]){name}(?![^\W_])" for name in names if name)
    return re.compile(
        rf"""((?:{either})[\w-]{{0,64}}[\\"'\]]{{0,4}}\s{{0,4}}(?:=>|[:=])\s{{0,4}}){_SAID_VALUE}""",
        re.I | re.S,
    )


def _without_password(rest: str, is_cut: bool) -> str:
    if is_cut and ":" in rest[3:]:  # where the password ends is past the cut
        return f"://{rest[3:].partition(':')[0]}:{REDACTED}"
    userinfo, at, host = rest[3:].rpartition("@")
    user, colon, password = userinfo.partition(":")
    if not at or any(mark in user for mark in "/?#") or _PORT.match(password):
        return rest
    # A long user name is an access token more often than a name.
    shown = user if len(user) < 20 else REDACTED
    return f"://{shown}{colon}{REDACTED if colon else ''}@{host}"
