"""The commands, one module each: its `HELP`, its `options(parser)`, and `run(options)`, which returns the exit status.

The command line imports all of them to know their options, so a command imports at its top no more than argparse needs,
and what it works with in its functions. A new command is a module here and its name in `COMMANDS`.
"""

from __future__ import annotations

COMMANDS = ("run", "plan", "status", "report", "export", "tune", "explain", "rows", "withdraw", "stages")
"""In the order of `ugaf --help`; each is the name of a module of this package."""
