"""The command line: `main`, a module a command, and what they print."""

from ugaf.cli.main import main as main
