"""`python -m ugaf.run [PIPELINE] [options]`: short for `python -m ugaf run`; without arguments, the demo pipeline."""

import sys

from ugaf.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["run", *sys.argv[1:]]))
