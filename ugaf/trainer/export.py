"""From a checkpoint to an editor: a `FineEditPipeline` folder with the trained weights, adapters merged in."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging

from ugaf.base.errors import ConfigError
from ugaf.fineedit.pipeline import FineEditPipeline
from ugaf.trainer.build import ADAPTER, build, dtype_of, trained
from ugaf.trainer.checkpoints import Checkpoints
from ugaf.trainer.distributed import device_of
from ugaf.trainer.settings import TrainSettings

LOG = logging.getLogger(__name__)


def export(settings: TrainSettings, folder: Path | None = None, step: int | None = None) -> Path:
    """Writes the editor of a checkpoint (the newest, or a step's) to `folder` (the output's `editor`); returns it.

    The weights are the moving average's where the training keeps one. The folder is replaced in one step.

    Raises ConfigError if there is no such checkpoint.
    """
    output = Path(settings.output).expanduser()
    checkpoints = Checkpoints(output / "checkpoints", settings.checkpoint.keep)
    chosen = choose(checkpoints, step, "step")
    return write(load(settings, checkpoints, chosen), folder or output / "editor", f"step {chosen}")


def load(settings: TrainSettings, checkpoints: Checkpoints, step: int) -> FineEditPipeline:
    """The pipeline with the weights of a checkpoint, in main memory, adapters merged in."""
    model = settings.model.model_copy(update={"checkpointing": False, "compile": False})
    pipeline = build(model, settings.seed, torch.device("cpu"), parts=False)
    values: dict[str, Any] = {name: value.data for name, value in trained(pipeline.transformer).items()}
    checkpoints.load(step, {"model" if settings.optimizer.ema is None else "average": values})
    return finished(pipeline, dtype_of(model, device_of(settings.scale)), model.train == "lora")


def choose(checkpoints: Checkpoints, step: int | None, unit: str) -> int:
    """The step, or the newest one. Raises ConfigError if there is no such checkpoint. unit: what a step is called."""
    steps = checkpoints.steps()
    if not steps or (step is not None and step not in steps):
        known = f"there are {', '.join(map(str, steps))}" if steps else "there are none"
        asked = "" if step is None else f"of {unit} {step} "
        raise ConfigError(f"{checkpoints.folder}: no checkpoint {asked}({known})")
    return steps[-1] if step is None else step


def finished(pipeline: FineEditPipeline, dtype: torch.dtype, has_lora: bool) -> FineEditPipeline:
    """The pipeline as it is used: adapters merged into the weights they adapt, nothing trained, one type."""
    transformer = pipeline.transformer
    if has_lora:
        transformer.fuse_lora(adapter_names=[ADAPTER])
        transformer.unload_lora()
    transformer.requires_grad_(False).eval()
    for value in transformer.parameters():
        value.data = value.data.to(dtype)
    return pipeline


def write(pipeline: FineEditPipeline, folder: Path, told: str) -> Path:
    """Writes the editor's folder, in the place of an earlier one, and returns it. told: what it is of, for the log."""
    diffusers_logging.disable_progress_bar()
    fresh = folder.with_name(f".{folder.name}-{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    pipeline.save_pretrained(fresh)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    LOG.info("%s  editor in %s", told, folder)
    return folder
