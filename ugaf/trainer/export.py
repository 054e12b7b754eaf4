"""From a checkpoint to an editor: a `FineEditPipeline` folder with the trained weights, adapters merged in."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from ugaf.errors import ConfigError
from ugaf.trainer.build import ADAPTER, build, dtype_of, trained
from ugaf.trainer.checkpoints import Checkpoints
from ugaf.trainer.distributed import device_of
from ugaf.trainer.pipeline import FineEditPipeline
from ugaf.trainer.settings import TrainSettings

LOG = logging.getLogger(__name__)


def export(settings: TrainSettings, folder: Path | None = None, step: int | None = None) -> Path:
    """Writes the editor of a checkpoint (the newest, or a step's) to `folder` (the output's `editor`); returns it.

    The weights are the moving average's where the training keeps one. The folder is replaced in one step.

    Raises ConfigError if there is no such checkpoint.
    """
    output = Path(settings.output).expanduser()
    checkpoints = Checkpoints(output / "checkpoints", settings.checkpoint.keep)
    steps = checkpoints.steps()
    if not steps or (step is not None and step not in steps):
        known = f"there are {', '.join(map(str, steps))}" if steps else "there are none"
        raise ConfigError(f"{checkpoints.folder}: no checkpoint {'' if step is None else f'of step {step} '}({known})")
    chosen = steps[-1] if step is None else step
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    pipeline = load(settings, checkpoints, chosen)
    target = folder or output / "editor"
    fresh = target.with_name(f".{target.name}-{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    pipeline.save_pretrained(fresh)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    LOG.info("step %d  editor in %s", chosen, target)
    return target


def load(settings: TrainSettings, checkpoints: Checkpoints, step: int) -> FineEditPipeline:
    """The pipeline with the weights of a checkpoint, in main memory, adapters merged in."""
    model = settings.model.model_copy(update={"checkpointing": False, "compile": False})
    pipeline = build(model, settings.seed, torch.device("cpu"), parts=False)
    transformer = pipeline.transformer
    parameters = trained(transformer)
    values: dict[str, Any] = {name: value.data for name, value in parameters.items()}
    checkpoints.load(step, {"model" if settings.optimizer.ema is None else "average": values})
    if model.train == "lora":
        transformer.fuse_lora(adapter_names=[ADAPTER])
        transformer.unload_lora()
    transformer.requires_grad_(False).eval()
    dtype = dtype_of(model, device_of(settings.scale))
    for value in transformer.parameters():
        value.data = value.data.to(dtype)
    return pipeline
