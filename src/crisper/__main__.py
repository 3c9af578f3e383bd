"""`crisper …` and `python -m crisper …`."""

from __future__ import annotations

import sys


def main() -> int:
    """Exit codes are in docs/reference/cli.md."""
    try:
        from crisper.faces.cli import cli

        cli(prog_name="crisper")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        print("crisper: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
