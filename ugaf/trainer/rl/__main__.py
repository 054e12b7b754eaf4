"""`python -m ugaf.trainer.rl CONFIG [key=value ...]`: post-trains an editor, and writes it."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from ugaf.errors import UgafError
from ugaf.trainer.rl.settings import PostSettings, load


def main(arguments: list[str] | None = None) -> int:
    """0 if all went well, 2 for wrong settings or data, or a judge that is gone."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "torch.distributed", "peft"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        settings = load(options.config, options.set)
        if options.check:
            check(settings)
            return 0
        from ugaf.trainer.launch import require

        require()
        if not options.export_only:
            _train(settings)
        if os.environ.get("RANK", "0") == "0":
            from ugaf.trainer.rl.export import export

            export(settings, Path(options.export) if options.export else None, options.epoch)
    except UgafError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


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
    made = argparse.ArgumentParser(prog="python -m ugaf.trainer.rl", description=__doc__)
    made.add_argument("config", help="a YAML file of settings (docs/post-training.md)")
    made.add_argument("set", nargs="*", metavar="key=value", help="settings to change: sampling.groups=8")
    made.add_argument("--check", action="store_true", help="check settings and shards, and stop")
    made.add_argument("--export", metavar="FOLDER", help="where the editor goes (default: OUTPUT/editor)")
    made.add_argument("--export-only", action="store_true", help="train nothing: write a checkpoint's editor")
    made.add_argument("--epoch", type=int, help="the checkpoint to export; default: the newest")
    return made


if __name__ == "__main__":
    raise SystemExit(main())
