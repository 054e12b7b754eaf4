"""From a batch of pictures and instructions to what the transformer is trained on, here or from a feature cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image

from ugaf.base.errors import ConfigError
from ugaf.fineedit.latents import to_float
from ugaf.fineedit.pipeline import FineEditPipeline, padded
from ugaf.trainer.build import build_frozen
from ugaf.trainer.data.cache import describe
from ugaf.trainer.distributed import device_of
from ugaf.trainer.settings import TINY, ModelSettings, ScaleSettings, TrainSettings

if TYPE_CHECKING:
    from ugaf.trainer.data.batch import Batch

EMPTY = " "
"""The instruction of samples that are trained without one, and of guidance's other half."""


@dataclass(frozen=True)
class Encoded:
    """One microbatch for the transformer.

    clean: latents of the edited pictures, (n, c, h, w). conditions: see `FineEditPipeline.conditions`. text: embeddings
    (n, length, width) and which are no padding, bool (n, length).
    """

    clean: torch.Tensor
    conditions: dict[str, torch.Tensor]
    text: tuple[torch.Tensor, torch.Tensor]


class Encoder:
    """The frozen parts of the pipeline: autoencoder and text encoder."""

    def __init__(self, pipeline: FineEditPipeline, device: torch.device) -> None:
        self.pipeline = pipeline
        self.device = device

    @torch.no_grad()
    def encode(self, batch: Batch, without_text: list[bool] | None = None) -> Encoded:
        """without_text: for each sample, whether it goes without its instruction."""
        if batch.features is not None:
            return self._cached(batch.features, without_text)
        clean = self.pipeline.codec.encode(to_float(batch.edited.to(self.device)))
        conditions = self.pipeline.conditions(batch.source, batch.references, batch.roi_mask)
        drop = without_text or [False] * len(batch.ids)
        prompts = [EMPTY if dropped else text for text, dropped in zip(batch.instructions, drop, strict=True)]
        return Encoded(clean, conditions, self.pipeline.encode(prompts, pictures(batch)))

    def _cached(self, features: dict[str, torch.Tensor], without_text: list[bool] | None) -> Encoded:
        told = {name: value.to(self.device) for name, value in features.items()}
        source = told["source_latents"].float()
        conditions = {
            "source": source,
            "background": told["masked_latents"].float(),
            "references": told.get("reference_latents", source.new_zeros(len(source), 0, *source.shape[1:])).float(),
        }
        text, mask = told["text"], told["text_mask"]
        if without_text is not None and any(without_text):
            empty = told["empty_text"], told["empty_text_mask"]
            rows = [
                (empty if dropped else (text, mask))[0][i][(empty if dropped else (text, mask))[1][i]]
                for i, dropped in enumerate(without_text)
            ]
            text, mask = padded(rows)
        return Encoded(told["edited_latents"].float(), conditions, (text, mask))


class Features:
    """Makes a feature cache's columns (`ugaf.trainer.data.cache_writer.Encoder`), as bfloat16."""

    def __init__(self, pipeline: FineEditPipeline, device: torch.device) -> None:
        self.pipeline = pipeline
        self.device = device

    @classmethod
    def of(cls, model: ModelSettings, seed: int, scale: ScaleSettings) -> Features:
        """With the frozen parts that the settings name."""
        device = device_of(scale)
        return cls(build_frozen(model, seed, device), device)

    def images(self, batch: Batch) -> dict[str, torch.Tensor]:
        found = self.pipeline.conditions(batch.source, batch.references, batch.roi_mask)
        made = {
            "source_latents": found["source"],
            "edited_latents": self.pipeline.codec.encode(to_float(batch.edited.to(self.device))),
            "masked_latents": found["background"],
        }
        if batch.references.shape[1]:
            made["reference_latents"] = found["references"]
        return {name: value.bfloat16() for name, value in made.items()}

    def text(self, batch: Batch) -> list[torch.Tensor]:
        embeddings, mask = self.pipeline.encode(batch.instructions, pictures(batch))
        return [own[real].bfloat16() for own, real in zip(embeddings, mask, strict=True)]


def encoder_name(settings: TrainSettings) -> str:
    """What makes the features, as a cache records it."""
    model = settings.model
    seed = f"seed {settings.seed}" if model.base == TINY else ""
    return " ".join(filter(None, [model.base, model.revision or "", seed]))


def check_cache(settings: TrainSettings) -> None:
    """Raises ConfigError if the feature cache was made by another model's encoders."""
    folder = settings.data.cache or ""
    made, wanted = describe(folder)["encoder"], encoder_name(settings)
    if made != wanted:
        raise ConfigError(f"data.cache: {folder} was made by {made!r}, and model.base is {wanted!r}: write it again")


def pictures(batch: Batch) -> list[list[Image.Image]]:
    """What the text encoder is shown with each instruction: the source, then the references."""
    groups = []
    for source, references in zip(batch.source, batch.references, strict=True):
        shown = [source, *references]
        groups.append([Image.fromarray(one.permute(1, 2, 0).numpy()) for one in shown])
    return groups
