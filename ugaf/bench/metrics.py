"""Fidelity outside the boxes, and CLIP inside them. Pictures are RGB uint8 (height, width, 3) of one shape.

What "outside the boxes" means, for each:
- PSNR: the pixels that lie in no box, all three channels.
- SSIM: the mean of the SSIM map of luma over the pixels whose whole window of 11 x 11 lies in the picture and touches
  no box. So neither an edit nor a padded border enters it.
- LPIPS: the edited picture's boxes are filled with the source's pixels, so that what the network sees of an edit is
  nothing; the mean of its spatial map over the pixels that lie in no box.

LPIPS and CLIP need torch and weights, and are loaded by `load_lpips` and `load_clip`, which say what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from ugaf.base.errors import ConfigError
from ugaf.base.needs import install_hint
from ugaf.imaging import boxes
from ugaf.imaging.boxes import Box
from ugaf.measures import quality

WINDOW = 11
"""Side of SSIM's window (Gaussian, sigma 1.5)."""

PACKAGES = {"torch": "bench", "lpips": "bench", "transformers": "bench"}


def outside(around: Sequence[Box], shape: tuple[int, ...]) -> np.ndarray:
    """bool (height, width): True where no box is."""
    return ~boxes.to_mask(around, shape[0], shape[1])


def psnr_outside(source: np.ndarray, edited: np.ndarray, around: Sequence[Box]) -> float | None:
    """dB, higher is better; 100 for identical pixels, None where the boxes leave nothing outside."""
    return quality.psnr(source, edited, outside(around, source.shape))


def ssim_outside(source: np.ndarray, edited: np.ndarray, around: Sequence[Box]) -> float | None:
    """-1..1, higher is better (Wang et al. 2004); None where no window fits outside the boxes."""
    free = outside(around, source.shape).astype(np.uint8)
    window = np.ones((WINDOW, WINDOW), np.uint8)
    whole = cv2.erode(free, window, borderType=cv2.BORDER_CONSTANT, borderValue=0).astype(bool)
    return quality.ssim(source, edited, whole)


class Lpips:
    """LPIPS (Zhang et al. 2018), AlexNet, version 0.1, outside the boxes: 0 = alike, lower is better.

    network: an `lpips.LPIPS` with `spatial=True`.
    """

    name = "lpips-alex-0.1"

    def __init__(self, network: Any, device: str = "cpu") -> None:
        self._network = network.to(device).eval()
        self._device = device

    def outside(self, source: np.ndarray, edited: np.ndarray, around: Sequence[Box]) -> float | None:
        free = outside(around, source.shape)
        if not free.any():
            return None
        import torch

        filled = np.where(free[..., None], edited, source)
        pair = [torch.from_numpy(np.ascontiguousarray(p)).to(self._device) for p in (source, filled)]
        first, second = (picture.permute(2, 0, 1)[None].float() / 127.5 - 1 for picture in pair)
        with torch.inference_mode():
            found = self._network(first, second)[0, 0].cpu().numpy()
        return float(found[free].mean())


class Clip:
    """CLIP score: cosine of the embeddings of a picture and a text, -1..1 (not scaled by 100, nor cut at 0).

    Texts are cut where the checkpoint's context ends (77 tokens).
    """

    def __init__(self, model: Any, processor: Any, name: str, device: str = "cpu") -> None:
        self.name = name
        self._model = model.to(device).eval()
        self._processor = processor
        self._device = device

    def score(self, picture: np.ndarray, text: str) -> float:
        import torch
        from PIL import Image

        given = self._processor(
            text=[text], images=[Image.fromarray(picture)], return_tensors="pt", padding=True, truncation=True
        ).to(self._device)
        pixels = given.pop("pixel_values")
        with torch.inference_mode():
            found = [self._model.get_image_features(pixel_values=pixels), self._model.get_text_features(**given)]
        image, words = (getattr(features, "pooler_output", features)[0].float() for features in found)
        return float(torch.nn.functional.cosine_similarity(image, words, dim=0))


def load_lpips(device: str) -> Lpips | str:
    """The metric, or why it cannot be had."""
    try:
        import lpips
    except ImportError as error:
        return _missing(error, "lpips")
    try:
        return Lpips(lpips.LPIPS(net="alex", spatial=True, verbose=False), _there(device))
    except (OSError, RuntimeError) as error:  # its AlexNet is downloaded at the first use
        return f"the weights of LPIPS cannot be loaded: {error}"


def load_clip(model: str, device: str) -> Clip | str:
    """The metric, or why it cannot be had. model: a hub id or a folder. Raises ConfigError for a model of no texts."""
    try:
        import transformers
    except ImportError as error:
        return _missing(error, "transformers")
    try:
        transformers.utils.logging.disable_progress_bar()
        processor = transformers.AutoProcessor.from_pretrained(model)
        loaded = transformers.AutoModel.from_pretrained(model, dtype="float32")
        if not hasattr(loaded, "get_text_features"):
            raise ConfigError(f"--clip: {model!r} embeds no texts: name a CLIP or SigLIP checkpoint")
        return Clip(loaded, processor, model, _there(device))
    except ImportError as error:
        return _missing(error, "torch")
    except (OSError, ValueError) as error:
        return f"CLIP {model!r} cannot be loaded: {' '.join(str(error).split())[:300]}"


def _there(device: str) -> str:
    """The device. Raises ConfigError for one that is not there."""
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device: {device!r} is not there: {error}") from error
    return device


def _missing(error: ImportError, package: str) -> str:
    lacking = (error.name or package).partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and lacking in PACKAGES:
        return install_hint({lacking: "bench"})
    return f"{install_hint({package: 'bench'})} ({error})"
