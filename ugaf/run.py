"""`python -m ugaf.run [PIPELINE] [options]`: short for `python -m ugaf run`; without arguments, the demo pipeline."""

import sys

from ugaf.cli import main

if __name__ == "__main__":
    # As if it had been typed: so it stands in the run's log, and ends as `ugaf run` does.
    sys.argv.insert(1, "run")
    raise SystemExit(main())
