"""From a checkpoint of the post-training to an editor: a `FineEditPipeline` folder with the LoRA merged in."""

from __future__ import annotations

from pathlib import Path

import torch

from ugaf.fineedit.pipeline import FineEditPipeline
from ugaf.trainer.build import dtype_of, trained
from ugaf.trainer.checkpoints import Checkpoints
from ugaf.trainer.distributed import device_of
from ugaf.trainer.export import choose, finished, write
from ugaf.trainer.rl.policy import build_policy
from ugaf.trainer.rl.settings import PostSettings
from ugaf.trainer.settings import ScaleSettings


def export(settings: PostSettings, folder: Path | None = None, epoch: int | None = None) -> Path:
    """Writes the editor of a checkpoint (the newest, or an epoch's) to `folder` (the output's `editor`); returns it.

    The folder is replaced in one step. Raises ConfigError if there is no such checkpoint.
    """
    output = Path(settings.output).expanduser()
    checkpoints = Checkpoints(output / "checkpoints", settings.checkpoint.keep)
    chosen = choose(checkpoints, epoch, "epoch")
    return write(load(settings, checkpoints, chosen), folder or output / "editor", f"epoch {chosen}")


def load(settings: PostSettings, checkpoints: Checkpoints, epoch: int) -> FineEditPipeline:
    """The pipeline with the LoRA of a checkpoint merged in, in main memory."""
    plain = settings.model.model_copy(update={"checkpointing": False, "compile": False})
    pipeline = build_policy(settings.model_copy(update={"model": plain}), torch.device("cpu"), parts=False)
    checkpoints.load(epoch, {"model": {name: value.data for name, value in trained(pipeline.transformer).items()}})
    return finished(pipeline, dtype_of(plain.as_model(), device_of(ScaleSettings(device=settings.device))), True)
