"""`ugaf plan`: what would run: stages, rows pending and done, resources. Nothing is written or started.

With `--estimate` also what it takes: GPU-hours, money, tokens, disk; on the machine that is here or on one that is
imagined.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

from ugaf.cli.commands import arguments, documents

HELP = "show what would run, and start nothing"


def options(parser: argparse.ArgumentParser) -> None:
    arguments.pipeline(parser)
    documents.option(parser)
    parser.add_argument("--retry-failed", action="store_true", help="count failed rows as work")
    parser.add_argument("--estimate", action="store_true", help="hours, GPU-hours, money, tokens, disk")
    parser.add_argument(
        "--rows", type=_number(0), metavar="N", help="estimate for so many photographs (or pairs), whatever is pending"
    )
    parser.add_argument(
        "--gpus", type=_number(1), metavar="N", help="estimate for a cluster with so many GPUs, whatever is here"
    )
    parser.add_argument(
        "--gpus-per-node", type=_number(1), default=8, metavar="N", help="GPUs of each of its nodes (default: 8)"
    )
    parser.add_argument("--price", type=_price, metavar="PRICE", help="of a GPU for an hour, in any currency")


def run(options: argparse.Namespace) -> int:
    from ugaf.cli.commands import asked
    from ugaf.cli.commands.planned import print_plan
    from ugaf.cli.estimated import Asked
    from ugaf.cli.foreseen import foreseen

    wanted = options.estimate or any(given is not None for given in (options.rows, options.gpus, options.price))
    question = Asked(options.rows, options.gpus, options.gpus_per_node, options.price) if wanted else None
    plan = foreseen(asked.load(options), asked.run_options(options), question)
    if options.json:
        documents.print_json(plan)
    else:
        print_plan(plan)
    return 0


def _number(least: int) -> Callable[[str], int | str]:
    def parse(text: str) -> int | str:
        if not text.strip():
            return text  # refused with all blank arguments
        number = int(text.replace("_", "").replace(",", ""))
        if number < least:
            raise argparse.ArgumentTypeError(f"{text}: {least} or more")
        return number

    parse.__name__ = "number"
    return parse


def _price(text: str) -> float | str:
    if not text.strip():
        return text
    price = float(text)
    if not (math.isfinite(price) and price >= 0):
        raise argparse.ArgumentTypeError(f"{text}: a number, 0 or more")
    return price


_price.__name__ = "price"
