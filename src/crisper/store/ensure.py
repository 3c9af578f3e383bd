"""`python -m crisper.store.ensure`: makes the registry ready whose URL stands on stdin.

A recorder runs it beside itself, because the migration tools would stay in its memory.
What cannot be done is told on stdout, as the error's name and its sentence.
"""

from __future__ import annotations

import sys

from crisper import errors
from crisper.errors import CrisperError, RegistryError


def main() -> int:
    from crisper.store.migrate import ensure

    try:
        ensure(sys.stdin.read())
    except CrisperError as exc:
        print(f"{type(exc).__name__}\n{exc}")
        return 1
    except Exception as exc:
        print(f"RegistryError\nthe registry could not be made or upgraded: {type(exc).__name__}: {exc}")
        return 1
    return 0


def told(output: str) -> CrisperError:
    """The error that the process told of."""
    name, _, sentence = output.partition("\n")
    kind = getattr(errors, name, RegistryError)
    error: CrisperError = kind(sentence.strip() or "the registry could not be made: its maker said nothing")
    return error


if __name__ == "__main__":
    sys.exit(main())
