"""Arguments that several commands share."""

from __future__ import annotations

import argparse

DEFAULT_PIPELINE = "demo"


def pipeline(parser: argparse.ArgumentParser) -> None:
    """A pipeline, changes to it, and which of its stages; `asked.load` and `asked.run_options` read them."""
    parser.add_argument(
        "pipeline",
        nargs="?",
        default=DEFAULT_PIPELINE,
        help="a YAML file, or a shipped pipeline by name (default: demo)",
    )
    changes(parser, "change a setting, e.g. --set curation.photometric.keep.rgb_entropy.min=6 or --set seed=1")
    parser.add_argument("--input", action="append", default=[], help="take these inputs instead of the pipeline's")
    parser.add_argument("--output", help="the run's folder or URL (default: the pipeline's, else runs/NAME)")
    parser.add_argument(
        "--replace", action="store_true", help="take over the folder of another pipeline's run, whose columns stay"
    )
    parser.add_argument("--name", help="what the run, its report and card are called (default: its folder's name)")
    parser.add_argument("--stage", help="only this stage")
    parser.add_argument("--from", dest="first", metavar="STAGE", help="this stage and what follows")
    parser.add_argument("--until", dest="last", metavar="STAGE", help="up to and with this stage")
    parser.add_argument(
        "--address",
        help="a Ray cluster to attach to; without it, RAY_ADDRESS (set in submitted jobs), else a local Ray",
    )


def run_folder(parser: argparse.ArgumentParser, option: bool = False) -> None:
    """A run that is there; as `--run` where the command's own argument is another. `asked.find_run` reads it."""
    text = "the run's folder or URL (default: the latest in runs/)"
    if option:
        parser.add_argument("--run", help=text)
    else:
        parser.add_argument("run", nargs="?", help=text)
    trust(parser)


def trust(parser: argparse.ArgumentParser) -> None:
    """Whose code the run may name. `asked.view` reads it."""
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="import stages and engines of this package that the run names; else only ugaf's own are imported",
    )


def changes(parser: argparse.ArgumentParser, text: str) -> None:
    """`--set KEY=VALUE`, any number of times."""
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)


def wait(parser: argparse.ArgumentParser) -> None:
    """For a command that writes in a run; `ugaf.columns.lease.scope` gets it."""
    parser.add_argument("--wait", action="store_true", help="while another command works in the run, wait for its end")


def replace_shards(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--replace-shards",
        action="store_true",
        help="remove formats and adapters that this call does not name, and all shards if nothing is kept",
    )
