"""`ugaf withdraw`: take photographs out of a run, with all that came of them, for good."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ugaf.cli.commands import arguments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ugaf.columns.view import RunView

HELP = "take photographs out of a run with all that came of them: edits, shards, stored columns; never taken in again"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="the run's folder or URL")
    parser.add_argument(
        "what",
        nargs="*",
        metavar="PATH|ID",
        help="a photograph: its path, file name, id or the beginning of it, or an edit's; a folder or tar: all in it",
    )
    parser.add_argument("--list", metavar="FILE", help="a file with one of these in each line (-: standard input)")
    parser.add_argument("--reason", default="", metavar="TEXT", help="why, for the funnel's rows and explain")
    parser.add_argument("--dry-run", action="store_true", help="say what would go, and change nothing")
    arguments.wait(parser)
    arguments.trust(parser)


def run(options: argparse.Namespace) -> int:
    """Raises UgafError if one of the texts means no row, or several that do not lie in a folder of that name; HeldError
    while another command works in the run: it has photographs in hand, and would write again what is erased here."""
    from rich.markup import escape

    from ugaf.base.errors import UgafError
    from ugaf.cli.commands import asked
    from ugaf.cli.commands.terminal import console
    from ugaf.columns import lease

    listed = _lines(options.list) if options.list else []
    if not (options.what or listed):
        raise UgafError("name what is to be withdrawn: paths or ids, or a file of them with --list")
    with ExitStack() as stack:
        view = asked.view(options)
        if not options.dry_run:
            stack.enter_context(lease.scope("ugaf withdraw", options.wait, lambda line: console.print(escape(line))))
            if stack.enter_context(lease.held(view.storage, "ugaf withdraw")).waited:
                view = asked.view(options)
        return _withdraw(view, options, listed)


def _withdraw(view: RunView, options: argparse.Namespace, listed: Sequence[str]) -> int:
    from rich.markup import escape

    from ugaf.base.printing import counted
    from ugaf.cli.commands import asked
    from ugaf.cli.commands.terminal import console
    from ugaf.columns.tombstones import is_unfinished
    from ugaf.withdrawal import withdraw as withdrawal

    if not options.dry_run and is_unfinished(view.storage):
        console.print("an earlier withdrawal was interrupted: finishing it first")
        withdrawal.finish(view, lambda line: console.print(escape(line)))
        view = asked.view(options)
    planned = withdrawal.plan(view, options.what, listed)
    for text in planned.known:
        console.print(escape(f"{text}: withdrawn already"))
    console.print(escape(planned.told(view.pipeline.is_pairs, options.dry_run)))
    if options.dry_run:
        for line in withdrawal.of_shards(view, planned):
            console.print(escape(line))
    if options.dry_run or not planned.names:
        return 0
    withdrawal.withdraw(view, planned, options.reason, lambda line: console.print(escape(line)))
    pending = sum(counts.pending for counts in asked.view(options).funnel())
    if pending:
        are = "is" if pending == 1 else "are"
        console.print(f"{counted(pending, 'rows')} {are} pending (near-duplicates are judged anew): run it again")
    return 0


def _lines(path: str) -> list[str]:
    """The lines of a file that hold something; # begins a comment line."""
    import sys

    from ugaf.base.errors import UgafError

    try:
        if path == "-":
            text = sys.stdin.read()
        else:
            with open(path, encoding="utf-8") as file:
                text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UgafError(f"--list {path}: cannot be read: {error}") from error
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]
