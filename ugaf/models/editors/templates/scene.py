"""What every operation of the templates editor works on: the picture so far, its objects, and helpers to draw.

An operation is a function `(Scene, params) -> Layer`: it looks at the picture, and answers with pixels to lay over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from ugaf.imaging import blending, boxes
from ugaf.imaging.blending import Layer
from ugaf.imaging.boxes import Box
from ugaf.models.editors.interface import EditError, EditObject, EditRequest

LEAST_PIXELS = 64
"""An object of fewer pixels is no target."""


@dataclass(frozen=True)
class Cutout:
    """An object with its surroundings: a window of the picture, with the object's mask and matte in the window.

    window: absolute box. pixels: uint8 (h, w, 3), a view. mask: bool (h, w). matte: float32 (h, w), 0..1.
    """

    window: Box
    pixels: np.ndarray
    mask: np.ndarray
    matte: np.ndarray

    @property
    def size(self) -> float:
        """The object's typical side: the square root of its area, in pixels."""
        return float(np.sqrt(self.mask.sum()))

    def layer(self, pixels: np.ndarray, matte: np.ndarray | None = None) -> Layer:
        """New pixels (float or uint8) for the window, by default as far as the object's matte reaches."""
        if pixels.dtype != np.uint8:
            pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
        return Layer(self.window, pixels, self.matte if matte is None else matte)


@dataclass(frozen=True)
class Scene:
    """picture: RGB uint8 (height, width, 3), never written to. objects: as in the request. rng: the edit's own."""

    picture: np.ndarray
    objects: tuple[EditObject, ...]
    rng: np.random.Generator
    donor: np.ndarray | None = None
    donor_objects: tuple[EditObject, ...] = ()
    largest_fill: float = 0.4

    @classmethod
    def of(cls, request: EditRequest, largest_fill: float) -> Scene:
        return cls(
            request.photo,
            tuple(request.objects),
            np.random.default_rng(request.seed),
            request.donor,
            tuple(request.donor_objects),
            largest_fill,
        )

    def on(self, picture: np.ndarray) -> Scene:
        """The same scene with another picture (the result of an earlier operation)."""
        return replace(self, picture=picture)

    @property
    def whole(self) -> Box:
        return 0, 0, self.picture.shape[1], self.picture.shape[0]

    def object(self, params: Mapping[str, Any], key: str = "object") -> EditObject:
        return _pick(self.objects, params.get(key), key, "the photograph")

    def cutout(self, params: Mapping[str, Any], margin: float = 0.1) -> Cutout:
        """The object that `params` names, with a margin of that share of its box."""
        return cut_out(self.picture, self.object(params), margin)

    def donor_cutout(self, params: Mapping[str, Any]) -> Cutout:
        if self.donor is None:
            raise EditError("NoDonor", "the edit takes an object from another photograph, which is not there")
        target = _pick(self.donor_objects, params.get("donor_object"), "donor_object", "the donor photograph")
        return cut_out(self.donor, target, 0.1)


def _pick(objects: tuple[EditObject, ...], index: Any, key: str, where: str) -> EditObject:
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(objects):
        raise EditError("NoObject", f"{key} {index!r} is not one of the {len(objects)} objects of {where}")
    return objects[index]


def mask_of(picture: np.ndarray, target: EditObject) -> np.ndarray:
    """The object's mask: bool of the picture's size. Made by GrabCut where the detector gives none.

    Raises:
        EditError: NoMask, for a box outside the picture, a mask of the wrong size, or next to no pixels.
    """
    height, width = picture.shape[:2]
    box = boxes.clip(target.box, width, height)
    if boxes.area(box) < LEAST_PIXELS:
        raise EditError("NoMask", f"the object's box {list(target.box)} has next to no pixels of {width} x {height}")
    mask = target.mask
    if mask is None:
        mask = blending.grabcut(picture, box)
        if mask is None or mask.mean() < 0.08:
            raise EditError("NoMask", f"the object in box {list(box)} cannot be told from its background")
    else:
        expected = (target.box[3] - target.box[1], target.box[2] - target.box[0])
        if mask.shape != expected:
            raise EditError(
                "NoMask", f"the object's mask is {mask.shape}, but its box {list(target.box)} is {expected}"
            )
        box = target.box
    pad = max(8, round(0.05 * max(mask.shape)))
    window = boxes.clip((box[0] - pad, box[1] - pad, box[2] + pad, box[3] + pad), width, height)
    whole = blending.place(blending.tidy(blending.place(mask, box, window)), window, (0, 0, width, height))
    if whole.sum() < LEAST_PIXELS:
        raise EditError("NoMask", f"the object's mask in box {list(box)} has only {int(whole.sum())} pixels")
    return whole


def cut_out(picture: np.ndarray, target: EditObject, margin: float) -> Cutout:
    """The object with its mask and matte, in a window of its mask's box grown by `margin` (at least 12 pixels)."""
    mask = mask_of(picture, target)
    height, width = mask.shape
    box = boxes.of_mask(mask)
    assert box is not None
    pad = max(12, margin * max(box[2] - box[0], box[3] - box[1]))
    window = boxes.clip((box[0] - pad, box[1] - pad, box[2] + pad, box[3] + pad), width, height)
    pixels, inside = boxes.crop(picture, window), boxes.crop(mask, window)
    return Cutout(window, pixels, inside, blending.matte_of(pixels, inside))


def luminance(rgb: np.ndarray) -> np.ndarray:
    """Rec. 601 luma of uint8 or float RGB: float32 (h, w), in the input's range."""
    return rgb.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def clouds(
    shape: tuple[int, int], feature: float, rng: np.random.Generator, octaves: int = 5, stretch: float = 1.0
) -> np.ndarray:
    """Smooth fractal noise, float32 (h, w) with mean 0 and standard deviation 1.

    feature: size of the largest features in pixels; each further octave halves size and weight. stretch: how
    many times wider than tall the features are.
    """
    height, width = shape
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        step = max(1.0, feature / 2**octave)
        rows, columns = max(2, int(height / step) + 3), max(2, int(width / (step * stretch)) + 3)
        grid = rng.standard_normal((rows, columns)).astype(np.float32)
        wide = cv2.resize(grid, None, fx=max(step * stretch, 1), fy=step, interpolation=cv2.INTER_CUBIC)
        wide = wide if wide.shape[0] >= height and wide.shape[1] >= width else cv2.resize(grid, (width, height))
        total += wide[:height, :width] * 0.5**octave
        if step <= 1.0:
            break
    return (total - total.mean()) / max(float(total.std()), 1e-6)


def ramp(values: np.ndarray, stops: list[tuple[float, tuple[int, int, int]]]) -> np.ndarray:
    """Colours along a gradient: values float (h, w) -> float32 (h, w, 3). stops: (value, RGB) in rising order."""
    at = [stop for stop, _ in stops]
    return np.dstack([np.interp(values, at, [colour[c] for _, colour in stops]) for c in range(3)]).astype(np.float32)


def smoothstep(low: float, high: float, values: np.ndarray) -> np.ndarray:
    """0 below low, 1 above high, smooth between. With low = high, a step: 0 up to it, 1 above."""
    t = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    return t * t * (3 - 2 * t)
