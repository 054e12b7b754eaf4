"""The planes of one picture that several measures need (grey, channels, Laplacian), each made once, when first asked.

Every measure of `ugaf.measures.photometry` and `ugaf.measures.artifacts` takes RGB pixels, or the `Planes` of them
where more than one measure is wanted.
"""

from __future__ import annotations

from functools import cached_property

import cv2
import numpy as np


class Planes:
    """Planes of RGB uint8 pixels (height, width, 3). Raises ValueError for anything else, or for an empty picture."""

    def __init__(self, rgb: np.ndarray) -> None:
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.size == 0:
            raise ValueError(f"expected RGB uint8 (height, width, 3), got {rgb.dtype} {rgb.shape}")
        self.rgb = rgb
        self.pixels = rgb.shape[0] * rgb.shape[1]

    @classmethod
    def of(cls, picture: np.ndarray | Planes) -> Planes:
        return picture if isinstance(picture, Planes) else cls(picture)

    @cached_property
    def grey(self) -> np.ndarray:
        """Luma of BT.601, 0.299 R + 0.587 G + 0.114 B, rounded: uint8 (height, width)."""
        return cv2.cvtColor(self.rgb, cv2.COLOR_RGB2GRAY)

    @cached_property
    def grey_mean_and_deviation(self) -> tuple[float, float]:
        mean, deviation = cv2.meanStdDev(self.grey)
        return float(mean[0, 0]), float(deviation[0, 0])

    @cached_property
    def channels(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """R, G, B: uint8 (height, width) each."""
        red, green, blue = cv2.split(self.rgb)
        return red, green, blue

    @cached_property
    def highest(self) -> np.ndarray:
        """The largest of each pixel's three values (V of HSV): uint8 (height, width)."""
        red, green, blue = self.channels
        return cv2.max(cv2.max(red, green), blue)

    @cached_property
    def lowest(self) -> np.ndarray:
        """The smallest of each pixel's three values: uint8 (height, width)."""
        red, green, blue = self.channels
        return cv2.min(cv2.min(red, green), blue)

    @cached_property
    def laplacian_power(self) -> float:
        """Mean square of the grey picture's Laplacian; with repeated edges its mean is 0, so this is its variance."""
        laplacian = cv2.Laplacian(self.grey, cv2.CV_16S, ksize=1, borderType=cv2.BORDER_REPLICATE)
        return cv2.norm(laplacian, cv2.NORM_L2SQR) / self.pixels


def disk(radius: float) -> np.ndarray:
    """The structuring element of a disk, uint8 (2 r + 1, 2 r + 1), r = `radius` rounded, at least 1 pixel."""
    r = max(1, round(radius))
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * r + 1, 2 * r + 1))
