"""Edits of one pair that differ by their noise."""

from __future__ import annotations

import numpy as np
import torch

from ugaf.fineedit.pipeline import FineEditPipeline, guided, predict
from ugaf.trainer.encode import Encoded

Text = tuple[torch.Tensor, torch.Tensor]


@torch.no_grad()
def edits(
    pipeline: FineEditPipeline, encoded: Encoded, negative: Text | None, noise: torch.Tensor, steps: int, scale: float
) -> torch.Tensor:
    """Latents of edits, float32 (n, c, h, w), from their noise (n, c, h, w).

    encoded: of one pair. negative: the embeddings of guidance's other half; None goes without, whatever `scale` is.
    """
    conditions, text = repeated(encoded, len(noise))
    other = None if negative is None else repeated_text(negative, len(noise))
    latents = noise.float()
    for time in pipeline.schedule(steps, latents):
        t = (time / pipeline.scheduler.config.num_train_timesteps).expand(len(latents)).to(latents)
        said = predict(pipeline.transformer, latents, t, conditions, text)
        if other is not None:
            said = guided(said, predict(pipeline.transformer, latents, t, conditions, other), scale)
        latents = pipeline.scheduler.step(said.float(), time, latents, return_dict=False)[0]
    return latents


def repeated(encoded: Encoded, count: int) -> tuple[dict[str, torch.Tensor], Text]:
    """Conditions and text of one pair, for `count` edits of it."""
    conditions = {name: value.expand(count, *value.shape[1:]) for name, value in encoded.conditions.items()}
    return conditions, repeated_text(encoded.text, count)


def repeated_text(text: Text, count: int) -> Text:
    return text[0].expand(count, -1, -1), text[1].expand(count, -1)


def pictures_of(pipeline: FineEditPipeline, latents: torch.Tensor) -> list[np.ndarray]:
    """RGB uint8 (height, width, 3) of each."""
    decoded = ((pipeline.codec.decode(latents).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return [np.ascontiguousarray(one.permute(1, 2, 0).cpu().numpy()) for one in decoded]
