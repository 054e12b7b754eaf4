"""The command line. Only argparse is imported here, so that `--help` answers at once; each command imports its own."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from ugaf import __version__
from ugaf.base.printing import complain, harmless, ready_streams
from ugaf.cli.commands import COMMANDS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; errors meant for the user are printed without a traceback. Returns the exit status; without
    arguments it is a program, takes those of the process, and ends it."""
    ready_streams()
    status = _command(parse(sys.argv[1:] if arguments is None else list(arguments)))
    if arguments is None:
        from ugaf.cli import endings

        endings.leave(status)
    return status


def _command(options: argparse.Namespace) -> int:
    from ugaf.base.errors import StopRun, UgafError
    from ugaf.cli import endings

    # A script's path lacks the working folder, which `python -m` has; last, so that nothing there hides a package.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        with endings.ended_by_signals():
            status = int(options.run_command(options) or 0)
            sys.stdout.flush()
            return status
    except (UgafError, StopRun) as error:
        complain("ugaf", error)
        return error.status
    except KeyboardInterrupt:
        complain("ugaf", f"interrupted; {endings.GOES_ON}")
        return endings.INTERRUPTED
    except BrokenPipeError:
        return endings.reader_gone()
    except OSError as error:
        known = endings.mend(error)
        if known is None:
            raise
        complain("ugaf", known)
        return known.status


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The arguments; an unknown one ends the process with its command's own usage and the nearest option."""
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        import difflib

        command = options.parser
        known = [name for action in command._actions for name in action.option_strings]
        close = difflib.get_close_matches(unknown[0].partition("=")[0], known, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]}?" if close else ""
        command.error(f"unknown argument{'s' * (len(unknown) > 1)}: {harmless(' '.join(unknown))}{hint}")
    _refuse_blank(options)
    return options


def _refuse_blank(options: argparse.Namespace) -> None:
    """An argument that is given and says nothing (a shell variable that is not set) ends the process: as a path it
    would be the working folder, as an option it would be overlooked."""
    for action in options.parser._actions:
        given = getattr(options, action.dest, action.default)
        values = given if isinstance(given, list) else [given]
        if given != action.default and any(isinstance(value, str) and not value.strip() for value in values):
            name = "/".join(action.option_strings) or str(action.metavar or action.dest)
            options.parser.error(f"{name}: is empty (a shell variable that is not set?): name it, or leave it out")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ugaf",
        description="Turn photographs into a training set of image edits: source, box, instruction, edited.",
    )
    parser.add_argument("--version", action="version", version=f"ugaf {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = import_module(f"ugaf.cli.commands.{name}")
        command = commands.add_parser(name, help=module.HELP)
        module.options(command)
        command.set_defaults(run_command=module.run, parser=command)
    return parser
