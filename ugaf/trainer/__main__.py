"""`python -m ugaf.trainer CONFIG [key=value ...]`: trains, and writes the editor."""

from __future__ import annotations

import argparse
from pathlib import Path

from ugaf.base.errors import ConfigError
from ugaf.base.printing import harmless
from ugaf.trainer.commands import checked_or_done, common_parser
from ugaf.trainer.launch import launch, require
from ugaf.trainer.settings import TrainSettings, load


def main(arguments: list[str] | None = None) -> int:
    """0 if all went well, 2 for wrong settings or data."""
    return checked_or_done(parser().parse_args(arguments), load, check, _run)


def _run(settings: TrainSettings, options: argparse.Namespace) -> None:
    require()
    if options.write_cache:
        write_cache(settings)
        return
    if not options.export_only:
        launch(settings)
    from ugaf.trainer.export import export

    export(settings, Path(options.export) if options.export else None, options.step)


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
        partial(Features.of, model, settings.seed, scale),
        data.cache,
        encoder=encoder_name(settings),
        empty=EMPTY,
        actors=scale.workers,
        cpus=scale.cpus_per_worker,
        gpus=0.0 if device_of(scale).type == "cpu" else 1.0,
    )
    print(f"{done.parts} parts written, {done.there} were there; {len(done.corrupt)} samples cannot be read")
    for where, why in done.corrupt:
        print(harmless(f"  {where}: {why}"))


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = common_parser("python -m ugaf.trainer", __doc__, "optimizer.lr=1e-4", "step")
    made.add_argument("--write-cache", action="store_true", help="train nothing: write the features to data.cache")
    return made


if __name__ == "__main__":
    raise SystemExit(main())
