"""From a checkpoint of the post-training to an editor: a `FineEditPipeline` folder with the LoRA merged in."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import torch

from ugaf.errors import ConfigError
from ugaf.trainer.build import ADAPTER, dtype_of, trained
from ugaf.trainer.checkpoints import Checkpoints
from ugaf.trainer.distributed import device_of
from ugaf.trainer.pipeline import FineEditPipeline
from ugaf.trainer.rl.policy import build_policy
from ugaf.trainer.rl.settings import PostSettings
from ugaf.trainer.settings import ScaleSettings

LOG = logging.getLogger(__name__)


def export(settings: PostSettings, folder: Path | None = None, epoch: int | None = None) -> Path:
    """Writes the editor of a checkpoint (the newest, or an epoch's) to `folder` (the output's `editor`); returns it.

    The folder is replaced in one step. Raises ConfigError if there is no such checkpoint.
    """
    output = Path(settings.output).expanduser()
    checkpoints = Checkpoints(output / "checkpoints", settings.checkpoint.keep)
    epochs = checkpoints.steps()
    if not epochs or (epoch is not None and epoch not in epochs):
        known = f"there are {', '.join(map(str, epochs))}" if epochs else "there are none"
        raise ConfigError(
            f"{checkpoints.folder}: no checkpoint {'' if epoch is None else f'of epoch {epoch} '}({known})"
        )
    chosen = epochs[-1] if epoch is None else epoch
    target = folder or output / "editor"
    fresh = target.with_name(f".{target.name}-{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    load(settings, checkpoints, chosen).save_pretrained(fresh)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    LOG.info("epoch %d  editor in %s", chosen, target)
    return target


def load(settings: PostSettings, checkpoints: Checkpoints, epoch: int) -> FineEditPipeline:
    """The pipeline with the LoRA of a checkpoint merged in, in main memory."""
    plain = settings.model.model_copy(update={"checkpointing": False, "compile": False})
    pipeline = build_policy(settings.model_copy(update={"model": plain}), torch.device("cpu"), parts=False)
    transformer = pipeline.transformer
    checkpoints.load(epoch, {"model": {name: value.data for name, value in trained(transformer).items()}})
    transformer.fuse_lora(adapter_names=[ADAPTER])
    transformer.unload_lora()
    transformer.requires_grad_(False)
    dtype = dtype_of(plain.as_model(), device_of(ScaleSettings(device=settings.device)))
    return FineEditPipeline(
        **{**pipeline.components, "transformer": transformer.to(dtype).eval()},
        prompt_format=pipeline.config.prompt_format,
    )
