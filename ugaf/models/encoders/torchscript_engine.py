"""Image encoders in a TorchScript file, such as those that SSCD publishes for finding copies (arXiv 2202.10261)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from ugaf.base.errors import ConfigError
from ugaf.base.needs import Needs
from ugaf.models.detectors.common import libraries
from ugaf.models.encoders import Photo, unit, vision
from ugaf.stage import Failure, operational

PACKAGES = {"torch": "transformers"}
Three = Annotated[list[float], Field(min_length=3, max_length=3)]


class TorchScriptEncoder:
    """Implements `ugaf.models.encoders.interface.Encoder` with a scripted or traced module: (n, 3, h, w) to (n, d).

    The defaults are the preparation that SSCD publishes for one size: squashed to 320 x 320, ImageNet's mean and
    deviation. A photograph is reduced by area averaging and enlarged bilinearly.
    """

    version = 1

    class Settings(vision.TorchSettings):
        """Options of the engine `torchscript`."""

        path: str = operational(..., min_length=1, description="the TorchScript file")
        side: int = Field(320, ge=16, le=4096, description="Side of the square (or the shorter side) in pixels.")
        fit: Literal["squash", "shorter", "crop"] = Field(
            "squash",
            description="How a photograph gets to that size: squash to a square, shorter (its shorter side is `side`, "
            "its shape stays), or crop (the same, then the square in the middle).",
        )
        mean: Three = Field([0.485, 0.456, 0.406], description="Taken off R, G, B in 0..1.")
        std: Three = Field([0.229, 0.224, 0.225], description="By which R, G, B are divided after that.")
        content: str | None = Field(
            None, validate_default=True, description="Hash of the file; filled in, so that other weights compute again."
        )

        @field_validator("std")
        @classmethod
        def _positive(cls, value: list[float]) -> list[float]:
            if min(value) <= 0:
                raise ValueError("std must be above 0")
            return value

        @field_validator("content")
        @classmethod
        def _hashed(cls, value: str | None, info: ValidationInfo) -> str | None:
            known = value is None and "path" in info.data
            return vision.content_of(info.data["path"], "TorchScript file") if known else value

    @classmethod
    def needs(cls, settings: Settings) -> Needs:
        return vision.needs_of(settings, PACKAGES, settings.path, "encoder")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        file = Path(settings.path).expanduser()
        self.name = f"torchscript:{file.name}"
        (self._torch,) = libraries(PACKAGES)
        vision.check_gpu(self._torch, settings.device, "encoder")
        try:
            self._model = self._torch.jit.load(str(file), map_location=settings.device).eval()
        except (RuntimeError, ValueError, OSError) as error:
            raise ConfigError(f"encoder.path: {file} is no TorchScript module: {str(error).splitlines()[0]}") from error
        self.dim = vision.probe(self.encode([vision.grey]), f"encoder.path: {file}")

    def encode(self, photos: Sequence[Photo]) -> list[np.ndarray | Failure]:
        """For each photograph: float32 (dim,) of length 1."""
        return vision.look(self._torch, photos, self._prepared, self._run, self.settings.batch_size)

    def _prepared(self, pixels: np.ndarray) -> Mapping[str, Any]:
        small = fitted(pixels, self.settings.side, self.settings.fit).astype(np.float32) / 255
        mean, std = (np.array(three, np.float32) for three in (self.settings.mean, self.settings.std))
        scaled = (small - mean) / std
        return {"pixels": self._torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1))[None])}

    def _run(self, tensors: Mapping[str, Any]) -> np.ndarray:
        with vision.forward(self._torch, self.settings):
            found = self._model(tensors["pixels"].to(self.settings.device))
        if not self._torch.is_tensor(found) or found.ndim != 2:
            shape = tuple(found.shape) if self._torch.is_tensor(found) else type(found).__name__
            raise ConfigError(f"encoder.path: the module gives {shape}; expected one tensor (n, d)")
        return unit(found.float().cpu().numpy())


def fitted(pixels: np.ndarray, side: int, fit: str) -> np.ndarray:
    """RGB uint8 (height, width, 3) at the model's size: see `TorchScriptEncoder.Settings.fit`."""
    height, width = pixels.shape[:2]
    scale = side / min(height, width)
    size = (side, side) if fit == "squash" else (max(side, round(width * scale)), max(side, round(height * scale)))
    if size != (width, height):
        shrinks = size[0] <= width and size[1] <= height
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    if fit == "crop":
        top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
        pixels = pixels[top : top + side, left : left + side]
    return pixels
