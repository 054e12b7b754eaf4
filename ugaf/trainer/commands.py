"""What the command lines of training and post-training have in common."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from ugaf.base.errors import STOPPED, StopRun, UgafError
from ugaf.base.printing import complain, ready_streams

Kind = TypeVar("Kind")


def common_parser(program: str, description: str | None, example: str, unit: str) -> argparse.ArgumentParser:
    """example: a setting to change. unit: what checkpoints are counted in, "step" or "epoch"."""
    made = argparse.ArgumentParser(prog=program, description=description)
    made.add_argument("config", help="a YAML file of settings (docs/trainer.md, docs/post-training.md)")
    made.add_argument("set", nargs="*", metavar="key=value", help=f"settings to change: {example}")
    made.add_argument("--check", action="store_true", help="check settings and shards, and stop")
    made.add_argument("--export", metavar="FOLDER", help="where the editor goes (default: OUTPUT/editor)")
    made.add_argument("--export-only", action="store_true", help="train nothing: write a checkpoint's editor")
    made.add_argument(f"--{unit}", type=int, help="the checkpoint to export; default: the newest")
    return made


def checked_or_done(
    options: argparse.Namespace,
    load: Callable[[str, Sequence[str]], Kind],
    check: Callable[[Kind], None],
    work: Callable[[Kind, argparse.Namespace], None],
) -> int:
    """Loads the settings and checks them, or with them does the work, logging to the terminal: 0; 2 for an error that
    is the user's to mend, 75 for a stop after which the same command goes on, which are printed."""
    ready_streams()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "ray", "torch.distributed", "peft"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        settings = load(options.config, options.set)
        if options.check:
            check(settings)
        else:
            work(settings, options)
    except UgafError as error:
        complain("error", error)
        return 2
    except StopRun as error:
        complain("error", error)
        return STOPPED
    return 0
