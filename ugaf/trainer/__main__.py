"""`python -m ugaf.trainer CONFIG [key=value ...]`: trains, and writes the editor."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from ugaf.errors import ConfigError, UgafError
from ugaf.trainer.launch import launch, require
from ugaf.trainer.settings import TrainSettings, load


def main(arguments: list[str] | None = None) -> int:
    """0 if all went well, 1 if not, 2 for wrong settings or data."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "ray", "torch.distributed", "peft"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        settings = load(options.config, options.set)
        if options.check:
            check(settings)
            return 0
        require()
        if options.write_cache:
            write_cache(settings)
            return 0
        if not options.export_only:
            launch(settings)
        from ugaf.trainer.export import export

        export(settings, Path(options.export) if options.export else None, options.step)
    except UgafError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def check(settings: TrainSettings) -> None:
    """Prints what would be trained on. Raises UgafError where settings or shards are wrong."""
    from ugaf.trainer.data import Plan, open_index

    plan = Plan(open_index(settings.data), settings.data, settings.seed)
    first = next(plan.steps())
    samples = sum(len(part) for part in first)
    print(f"{len(plan.index)} samples; step 1 has {samples} in {len(first)} microbatches; {settings.steps} steps")


def write_cache(settings: TrainSettings) -> None:
    """Writes `data.cache`: with `scale.workers` actors, each on a GPU unless scale.device is cpu."""
    from functools import partial

    from ugaf.trainer.data import open_index
    from ugaf.trainer.data.cache_writer import write_cache as write
    from ugaf.trainer.distributed import device_of
    from ugaf.trainer.encode import EMPTY, Features, encoder_name

    data, model, scale = settings.data, settings.model, settings.scale
    if data.cache is None:
        raise ConfigError("data.cache: name the folder that the cache is written to")
    done = write(
        data,
        open_index(data),
        partial(Features, model, settings.seed, scale),
        data.cache,
        encoder=encoder_name(settings),
        empty=EMPTY,
        actors=scale.workers,
        cpus=scale.cpus_per_worker,
        gpus=0.0 if device_of(scale).type == "cpu" else 1.0,
    )
    print(f"{done.parts} parts written, {done.there} were there; {len(done.corrupt)} samples cannot be read")
    for where, why in done.corrupt:
        print(f"  {where}: {why}")


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(prog="python -m ugaf.trainer", description=__doc__)
    made.add_argument("config", help="a YAML file of settings (docs/trainer.md)")
    made.add_argument("set", nargs="*", metavar="key=value", help="settings to change: optimizer.lr=1e-4")
    made.add_argument("--check", action="store_true", help="check settings and shards, and stop")
    made.add_argument("--write-cache", action="store_true", help="train nothing: write the features to data.cache")
    made.add_argument("--export", metavar="FOLDER", help="where the editor goes (default: OUTPUT/editor)")
    made.add_argument("--export-only", action="store_true", help="train nothing: write a checkpoint's editor")
    made.add_argument("--step", type=int, help="the checkpoint to export; default: the newest")
    return made


if __name__ == "__main__":
    raise SystemExit(main())
