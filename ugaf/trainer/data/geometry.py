"""Buckets and fits: how an image of any size becomes one of a few sizes, and its boxes and masks with it.

A bucket is a size and a number of condition images, so that what lies in one bucket can be one batch. An image goes to
the bucket of the nearest aspect ratio, which is the one that crops least of it; nothing is ever padded.

A `Fit` cuts a whole-pixel window of the bucket's shape out of the image and resizes it. Where pixels go is integer
arithmetic on that window, so that images, masks and boxes agree to the pixel: pixel i of the output shows the pixels
floor(i c / s) to ceil((i + 1) c / s) - 1 of a window of c pixels that becomes s, it is in a mask if one of these is,
and boxes are rounded outwards in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from ugaf.imaging import boxes as box_tools
from ugaf.imaging.boxes import Box


class UnsuitableError(Exception):
    """A sample that cannot be shown in its bucket; the message says why."""


@dataclass(frozen=True, order=True)
class Bucket:
    """width, height: pixels. conditions: condition images of a sample, the source and its references; at least 1."""

    width: int
    height: int
    conditions: int = 1

    @property
    def ratio(self) -> float:
        """Width / height."""
        return self.width / self.height

    def tokens(self, side: int = 16) -> int:
        """Image tokens of one sample, the target's and its conditions', for tokens of `side` pixels."""
        return (self.width // side) * (self.height // side) * (1 + self.conditions)

    def batch_size(self, tokens: int | None, side: int = 16) -> int:
        """Samples of a microbatch of at most so many tokens; at least one, and one where `tokens` is None."""
        return 1 if tokens is None else max(1, tokens // self.tokens(side))

    def __str__(self) -> str:
        return f"{self.width}x{self.height}" + (f"+{self.conditions - 1}" if self.conditions > 1 else "")


def buckets_for(area: int = 1024 * 1024, multiple: int = 32, ratios: tuple[float, float] = (0.25, 4.0)) -> list[Bucket]:
    """Sizes of about `area` pixels with sides that are multiples of `multiple`, sorted by aspect ratio, all distinct.

    One for each short side, both ways up, within the range of ratios (width / height, at most 1 and at least 1), with
    the long side that comes nearest to the area: neighbours then differ by one step of `multiple`.
    """
    square = max(1, round(area**0.5 / multiple)) * multiple
    sizes = {(square, square)}
    for short in range(multiple, square, multiple):
        long = round(area / short / multiple) * multiple
        sizes |= {(width, height) for width, height in ((short, long), (long, short))}
    kept = [size for size in sizes if ratios[0] <= size[0] / size[1] <= ratios[1]]
    return [Bucket(width, height) for width, height in sorted(kept, key=lambda size: size[0] / size[1])]


def choose(width: int, height: int, buckets: Sequence[Bucket]) -> Bucket:
    """The bucket that crops least of an image of this size. `buckets` are sorted by aspect ratio."""
    return buckets[int(choose_many(np.array([width]), np.array([height]), buckets)[0])]


def choose_many(widths: np.ndarray, heights: np.ndarray, buckets: Sequence[Bucket]) -> np.ndarray:
    """For each size the position of the bucket that crops least of it: int16 (n,).

    What a bucket of ratio b crops of an image of ratio r is 1 - min(r / b, b / r), so it is the nearest in log(ratio).
    """
    logs = np.log([bucket.ratio for bucket in buckets])
    borders = (logs[1:] + logs[:-1]) / 2
    return np.searchsorted(borders, np.log(widths / heights)).astype(np.int16)


def cropped(widths: np.ndarray, heights: np.ndarray, buckets: Sequence[Bucket]) -> np.ndarray:
    """Share of each image's area that its bucket crops, 0..1: float64 (n,)."""
    chosen = np.array([bucket.ratio for bucket in buckets])[choose_many(widths, heights, buckets)]
    relative = widths / heights / chosen
    return 1 - np.minimum(relative, 1 / relative)


@dataclass(frozen=True)
class Fit:
    """How an image of `width` x `height` pixels becomes one of the bucket's size.

    window: the part of the image that is shown, (x1, y1, x2, y2), half-open, in the image's pixels.
    """

    width: int
    height: int
    bucket: Bucket
    window: Box

    @classmethod
    def of(cls, width: int, height: int, bucket: Bucket, boxes: Sequence[Box] = ()) -> Fit:
        """The largest window of the bucket's shape: in the middle, moved as little as keeps the boxes inside where
        that can be; where it cannot, in the middle of them."""
        across = min(width, max(1, round(height * bucket.width / bucket.height)))
        down = min(height, max(1, round(width * bucket.height / bucket.width)))
        around = box_tools.union(boxes) if boxes else None
        x = _start(width, across, (around[0], around[2]) if around else None)
        y = _start(height, down, (around[1], around[3]) if around else None)
        return cls(width, height, bucket, (x, y, x + across, y + down))

    def image(self, rgb: np.ndarray) -> np.ndarray:
        """RGB uint8 (height, width, 3) in the bucket's size: by area averaging, or by cubic interpolation where it has
        to be enlarged. Raises UnsuitableError for an image of another size."""
        self._check(rgb)
        part = box_tools.crop(rgb, self.window)
        size = (self.bucket.width, self.bucket.height)
        if (part.shape[1], part.shape[0]) == size:
            return np.ascontiguousarray(part)
        larger = size[0] > part.shape[1] or size[1] > part.shape[0]
        return cv2.resize(part, size, interpolation=cv2.INTER_CUBIC if larger else cv2.INTER_AREA)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """bool (height, width) in the bucket's size: True where any of the pixels shown there is."""
        self._check(mask)
        counts = np.zeros((self._down[1][-1] + 1, self._across[1][-1] + 1), dtype=np.int64)
        np.cumsum(np.cumsum(box_tools.crop(mask, self.window), axis=0, dtype=np.int64), axis=1, out=counts[1:, 1:])
        (top, bottom), (left, right) = self._down, self._across
        rows = counts[bottom] - counts[top]
        return (rows[:, right] - rows[:, left]) > 0

    def boxes(self, boxes: Sequence[Box]) -> list[Box]:
        """Boxes in the bucket's pixels, half-open, clipped and rounded outwards.

        Raises UnsuitableError for one that is empty, lies outside the image or is cropped away entirely.
        """
        return [self._box(box) for box in boxes]

    def _box(self, box: Box) -> Box:
        x1, y1, x2, y2 = box
        if not (0 <= x1 < x2 <= self.width and 0 <= y1 < y2 <= self.height):
            raise UnsuitableError(
                f"box {list(box)} is empty or outside its image of {self.width} x {self.height} pixels"
            )
        left, top, right, bottom = self.window
        x1, x2 = max(x1, left) - left, min(x2, right) - left
        y1, y2 = max(y1, top) - top, min(y2, bottom) - top
        if x1 >= x2 or y1 >= y2:
            raise UnsuitableError(f"box {list(box)} is cropped away entirely by the bucket {self.bucket}")
        width, height, across, down = self.bucket.width, self.bucket.height, right - left, bottom - top
        return x1 * width // across, y1 * height // down, -(-x2 * width // across), -(-y2 * height // down)

    def _check(self, pixels: np.ndarray) -> None:
        if pixels.shape[:2] != (self.height, self.width):
            raise UnsuitableError(
                f"an image of {pixels.shape[1]} x {pixels.shape[0]} pixels, where {self.width} x {self.height} is due"
            )

    @cached_property
    def _across(self) -> tuple[np.ndarray, np.ndarray]:
        return _shown(self.window[2] - self.window[0], self.bucket.width)

    @cached_property
    def _down(self) -> tuple[np.ndarray, np.ndarray]:
        return _shown(self.window[3] - self.window[1], self.bucket.height)


def _start(length: int, part: int, around: tuple[int, int] | None) -> int:
    """Where a window of `part` of `length` pixels begins."""
    middle = (length - part) // 2
    if around is None:
        return middle
    if around[1] - around[0] > part:
        middle = (around[0] + around[1] - part) // 2
    else:
        middle = min(max(middle, around[1] - part), around[0])
    return min(max(middle, 0), length - part)


def _shown(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of `target` pixels the first of the `source` pixels that it shows, and the one after the last."""
    first = np.arange(target, dtype=np.int64)
    return first * source // target, -(-(first + 1) * source // target)
