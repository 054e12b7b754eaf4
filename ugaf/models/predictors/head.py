"""The engine `head`: an encoder, and a small head on its embedding that somebody trained and put into a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from ugaf import stage
from ugaf.base.errors import ConfigError
from ugaf.base.needs import Needs, together
from ugaf.models.encoders import Encoder, Photo, open_encoder, vision
from ugaf.models.predictors import Backbone
from ugaf.models.predictors.heads import SUFFIXES, TORCH_FILES, Activation, Output, read_head
from ugaf.stage import Failure, engines, operational


class HeadPredictor(Backbone):
    """Implements `ugaf.models.predictors.interface.Predictor`: see `ugaf.models.predictors.heads` for the file.

    The head gets the embedding at length 1, as the published ones were trained. Heads on an encoder with the same
    settings share its forward pass.
    """

    name = "head"
    version = 1

    class Settings(stage.Settings):
        """Options of the engine `head`."""

        encoder: engines.EncoderSpec = Field(description="Which encoder the head was trained on, and its options.")
        path: str = operational(..., min_length=1, description=f"the head's file: {', '.join(SUFFIXES)}")
        activation: Activation = Field("none", description="Between the layers: none, relu, gelu, silu or tanh.")
        output: Output = Field("none", description="After the last layer: none, or sigmoid (a probability).")
        content: str | None = Field(
            None, validate_default=True, description="Hash of the file; filled in, so that other weights compute again."
        )

        @field_validator("content")
        @classmethod
        def _hashed(cls, value: str | None, info: ValidationInfo) -> str | None:
            known = value is None and "path" in info.data
            return vision.content_of(info.data["path"], "head") if known else value

    @classmethod
    def needs(cls, settings: Settings) -> Needs:
        own = {"torch": "transformers"} if Path(settings.path).suffix in TORCH_FILES else {}
        if Path(settings.path).suffix == ".safetensors":
            own = {"safetensors": "transformers"}
        return together([engines.needs("encoder", settings.encoder), Needs(packages=own)])

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        # Before the encoder, which takes longer.
        self._head = read_head(settings.path, settings.activation, settings.output)
        self.backbone: Encoder = open_encoder(settings.encoder)
        if self._head.dim != self.backbone.dim:
            raise ConfigError(
                f"head {settings.path} takes embeddings of {self._head.dim} numbers, but {self.backbone.name} gives "
                f"{self.backbone.dim}: name the encoder that it was trained on"
            )
        self.name = f"head:{Path(settings.path).name} on {self.backbone.name}"

    def features(self, photos: Sequence[Photo]) -> list[np.ndarray | Failure]:
        """The encoder's embeddings."""
        return self.backbone.encode(photos)

    def score(self, features: np.ndarray) -> float:
        return self._head(features)
