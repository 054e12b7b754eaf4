"""`python -m ugaf.trainer.rl CONFIG [key=value ...]`: post-trains an editor, and writes it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ugaf.trainer.commands import checked_or_done, common_parser
from ugaf.trainer.rl.settings import PostSettings, load


def main(arguments: list[str] | None = None) -> int:
    """0 if all went well, 2 for wrong settings or data, or a judge that is gone."""
    return checked_or_done(parser().parse_args(arguments), load, check, _run)


def _run(settings: PostSettings, options: argparse.Namespace) -> None:
    from ugaf.trainer.launch import require

    require()
    if not options.export_only:
        _train(settings)
    if os.environ.get("RANK", "0") == "0":
        from ugaf.trainer.rl.export import export

        export(settings, Path(options.export) if options.export else None, options.epoch)


def check(settings: PostSettings) -> None:
    """Prints what an epoch is. Raises UgafError where settings or shards are wrong."""
    from ugaf.trainer.data import Plan, open_index

    plan = Plan(open_index(settings.pairs()), settings.pairs(), settings.seed)
    sampling = settings.sampling
    print(
        f"{len(plan.index)} pairs; an epoch edits {sampling.groups} of them {sampling.members} times in "
        f"{sampling.steps} steps; {settings.epochs} epochs"
    )


def _train(settings: PostSettings) -> None:
    from ugaf.trainer.distributed import leave
    from ugaf.trainer.rl.loop import train

    try:
        train(settings)
    finally:
        leave()


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    return common_parser("python -m ugaf.trainer.rl", __doc__, "sampling.groups=8", "epoch")


if __name__ == "__main__":
    raise SystemExit(main())
