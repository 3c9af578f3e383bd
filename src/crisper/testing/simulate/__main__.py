"""`python -m crisper.testing.simulate`."""

from crisper.testing.simulate.command import main

if __name__ == "__main__":
    raise SystemExit(main())
