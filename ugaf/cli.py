"""The command line. Only argparse is imported here, so that `--help` answers at once; each command imports its own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ugaf import __version__

DEFAULT_PIPELINE = "demo"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; errors meant for the user are printed without a traceback. Returns the exit status."""
    options = _parser().parse_args(arguments)
    from ugaf import commands
    from ugaf.errors import UgafError

    try:
        return int(getattr(commands, f"do_{options.command}")(options) or 0)
    except UgafError as error:
        print(f"ugaf: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ugaf: interrupted; what is done is kept, and the same command goes on from there", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ugaf",
        description="Turn photographs into a training set of image edits: source, box, instruction, edited.",
    )
    parser.add_argument("--version", action="version", version=f"ugaf {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="do what is missing of a pipeline, then write shards and report")
    _pipeline(run)
    run.add_argument("--retry-failed", action="store_true", help="do the rows again that failed before")
    run.add_argument("--no-export", action="store_true", help="stop before shards and report")

    plan = commands.add_parser("plan", help="show what would run, and start nothing")
    _pipeline(plan)
    plan.add_argument("--retry-failed", action="store_true", help="count failed rows as work")

    for name, text in (
        ("status", "the funnel of a run as it is now"),
        ("report", "write a run's report/index.html"),
        ("export", "write a run's shards and dataset card"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("run", nargs="?", help="the run's folder or URL (default: the latest in runs/)")
        if name == "status":
            command.add_argument("--json", action="store_true", help="as JSON")
        if name == "export":
            command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an export setting")

    tune = commands.add_parser("tune", help="what other thresholds would keep: a table, and a page with sliders")
    tune.add_argument("run", nargs="?", help="the run's folder or URL (default: the latest in runs/)")
    tune.add_argument("--stage", help="only this stage in the table, its columns without a rule too")
    tune.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="start from other keep rules")

    explain = commands.add_parser("explain", help="the whole story of one photograph or edit, and why it is in or out")
    explain.add_argument("id", help="its id, or the beginning of it")
    explain.add_argument("--run", help="the run's folder or URL (default: the latest in runs/)")

    stages = commands.add_parser("stages", help="list the stages, or one stage's columns, settings and keep rules")
    stages.add_argument("stage", nargs="?")
    return parser


def _pipeline(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "pipeline",
        nargs="?",
        default=DEFAULT_PIPELINE,
        help="a YAML file, or a shipped pipeline by name (default: demo)",
    )
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a setting, e.g. --set curation.photometric.keep.rgb_entropy.min=6 or --set seed=1",
    )
    command.add_argument("--input", action="append", default=[], help="take these inputs instead of the pipeline's")
    command.add_argument("--output", help="the run's folder or URL (default: the pipeline's, else runs/NAME)")
    command.add_argument("--stage", help="only this stage")
    command.add_argument("--from", dest="first", metavar="STAGE", help="this stage and what follows")
    command.add_argument("--until", dest="last", metavar="STAGE", help="up to and with this stage")
    command.add_argument(
        "--address",
        help="a Ray cluster to attach to; without it, RAY_ADDRESS (set in submitted jobs), else a local Ray",
    )
