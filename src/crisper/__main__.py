"""`crisper …` and `python -m crisper …`."""

from __future__ import annotations

import sys


def main() -> int:
    """Exit codes are in docs/reference/cli.md."""
    from crisper.faces.cli import cli

    try:
        cli(prog_name="crisper")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
