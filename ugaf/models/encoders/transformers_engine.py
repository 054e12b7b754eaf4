"""Image encoders of the transformers library, by their hub id or folder: CLIP, SigLIP, DINOv2, ViT and the like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ugaf.base.errors import ConfigError
from ugaf.base.needs import Needs
from ugaf.models.encoders import Photo, unit, vision
from ugaf.stage import Failure


class TransformersEncoder(vision.Checkpoint):
    """Implements `ugaf.models.encoders.interface.Encoder` with any image model that AutoModel loads.

    Of a model of images and texts (CLIP, SigLIP) only the image side is kept. On a GPU it computes in half precision by
    autocast; the embedding is scaled to length 1 in float32.
    """

    version = 1

    class Settings(vision.CheckpointSettings):
        """Options of the engine `transformers`."""

        pooling: Literal["auto", "pooled", "cls", "mean"] = Field(
            "auto",
            description="What the embedding is: pooled (the model's own), cls (its first token) or mean (of its other "
            "tokens); auto: the space shared with texts where it has one, else pooled, else cls.",
        )

    settings: Settings

    @classmethod
    def needs(cls, settings: Settings) -> Needs:
        return vision.needs_of(settings, vision.PACKAGES, settings.model, "encoder")

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, "AutoModel", "encoder")
        self.name = f"transformers:{settings.label}"
        model = self._model
        self._shared_space = settings.pooling == "auto" and hasattr(model, "get_image_features")
        if hasattr(model, "vision_model") and hasattr(model, "text_model"):
            # The weights of the text side would stand on the GPU for nothing.
            del model.text_model
        self._model = model.to(settings.device)
        self._tower = getattr(self._model, "vision_model", self._model)
        self.dim = vision.probe(self.encode([vision.grey]), f"encoder.model: {settings.model!r}")

    def encode(self, photos: Sequence[Photo]) -> list[np.ndarray | Failure]:
        """For each photograph: float32 (dim,) of length 1."""
        return self._look(photos)

    def _run(self, tensors: Mapping[str, Any]) -> np.ndarray:
        moved = self._moved(tensors)
        with vision.forward(self._torch, self.settings):
            if self._shared_space:
                features = self._model.get_image_features(**moved)
                found = getattr(features, "pooler_output", features)
            else:
                found = self._pooled(self._tower(**moved))
        return unit(found.float().cpu().numpy())

    def _pooled(self, outputs: Any) -> Any:
        pooling, pooled = self.settings.pooling, getattr(outputs, "pooler_output", None)
        if pooled is not None and pooling in ("auto", "pooled"):
            # Convolutional models pool to (n, d, 1, 1).
            return pooled.flatten(1)
        if pooling == "pooled":
            raise ConfigError(f"encoder.pooling: {self.settings.model} pools nothing by itself; use cls or mean")
        tokens = outputs.last_hidden_state
        if tokens.ndim != 3:
            raise ConfigError(f"encoder.pooling: {self.settings.model} has no tokens; use pooled")
        return tokens[:, 0] if pooling != "mean" else tokens[:, 1:].mean(1)
