"""`python -m ugaf`: the command line."""

from ugaf.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
