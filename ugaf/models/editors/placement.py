"""How a target box reaches an image editor, and how the editor's answer comes back onto the photograph's pixels.

An editing model sees one picture of about a megapixel and a sentence. Where the edit belongs can be told in five ways:

- `words`: the whole picture, and a sentence that says where, unless the instruction says it already;
- `crop`: only the surroundings of the box are edited, at the model's full size, and pasted back with a soft border:
  the way for targets that would be too small in the whole picture;
- `inpaint`: the whole picture and a mask, for models that take one; outside of it the photograph's pixels are kept;
- `boxes`: the whole picture and the boxes, for models that were trained to be told them (`ugaf.trainer`);
- `whole`: the whole picture and the instruction as it stands, for edits that have no box.

`prepare` makes what the model gets, `finish` makes the pair from what it gave. Both are pure: engines call them around
their model, whatever it is. With `crop` and `inpaint` no pixel outside of the edit's mask changes, bit for bit; with
`words` and `whole` the model may have moved every pixel, and only the size is restored: shifts and drift are measured
by `refinement.change_mask`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from pydantic import Field

from ugaf.base import tasks
from ugaf.imaging import blending, boxes, registration
from ugaf.imaging.boxes import Box
from ugaf.models.editors.interface import Edit, EditError, EditRequest
from ugaf.stage import Settings
from ugaf.wording.places import PHRASES, WIDE, Place

Way = Literal["words", "crop", "inpaint", "boxes", "whole"]

LARGEST_CROP = 0.8
"""A crop that covers more of the photograph than this is no crop: the whole picture is edited."""

CROP_SHAPES = (1 / 2, 2 / 3, 3 / 4, 1.0, 4 / 3, 3 / 2, 2.0)
"""Width over height of crops: none too long for a model, and few different ones, so that batches of one size fill."""

SAME_SHAPE = 0.02
"""An answer whose aspect ratio is within this of the one asked for was stretched, not cropped or padded."""


class PlacementSettings(Settings):
    """How the target box is told to the model."""

    way: Literal["auto", "words", "crop", "inpaint", "boxes", "whole"] = Field(
        "auto",
        description="auto: inpaint if the engine was set to, else crop for small targets, else boxes where the model "
        "takes them, else words; whole if none",
    )
    crop_below: float = Field(
        0.15, ge=0, le=1, description="auto crops where the target box takes less than this share of the photograph"
    )
    margin: float = Field(0.5, ge=0, le=8, description="around a crop's target, as a share of the box's longer side")
    least_margin: int = Field(32, ge=0, description="least margin around a crop's target, in pixels of the photograph")
    least_side: int = Field(256, ge=1, description="least side of a crop, in pixels, where the photograph has them")
    mask_margin: float = Field(
        0.06, ge=0, le=1, description="inpaint: how far the mask goes beyond the box, as a share of its longer side"
    )
    feather: float = Field(
        0.05, ge=0, le=0.5, description="width of the soft border, as a share of the shorter side of crop or mask"
    )


@dataclass(frozen=True)
class WorkingSize:
    """The sizes that a model works at: about `area` pixels, both sides multiples of `multiple` pixels."""

    area: int = 1024 * 1024
    multiple: int = 16


@dataclass(frozen=True)
class Prepared:
    """What the model gets, and what `finish` needs.

    Attributes:
        image: RGB uint8 (h, w, 3), at the working size.
        prompt: the instruction, perhaps with the place.
        mask: uint8 (h, w), 255 where the model may paint, else 0; None unless `way` is "inpaint".
        way: how the box is told.
        photo: the photograph, RGB uint8 (height, width, 3).
        region: the part of the photograph that `image` shows.
        frames: (target, limit) boxes in the photograph's pixels: the edit counts fully inside the target and not at all
            outside of the limit; empty where it may change anything.
        feather: width of the soft border inside each limit, as a share of its shorter side.
        boxes: the targets in `image`, absolute pixels, half-open; empty where it may change anything.
    """

    image: np.ndarray
    prompt: str
    mask: np.ndarray | None
    way: Way
    photo: np.ndarray
    region: Box
    frames: tuple[tuple[Box, Box], ...] = ()
    feather: float = 0.0
    boxes: tuple[Box, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of `image`."""
        return self.image.shape[1], self.image.shape[0]


def working_size(width: int, height: int, working: WorkingSize) -> tuple[int, int]:
    """(width, height) in multiples of `working.multiple`, of about `working.area` pixels and the given aspect ratio.

    Of the multiples next to the exact sides, above and below, the pair is taken whose aspect ratio is nearest (then the
    one whose area is): each side is within one multiple of the exact one, and at least one multiple long.
    """
    ratio = width / height
    exact = math.sqrt(working.area * ratio), math.sqrt(working.area / ratio)
    floors = [max(1, math.floor(side / working.multiple)) for side in exact]
    pairs = [(w * working.multiple, h * working.multiple) for w in _next(floors[0]) for h in _next(floors[1])]
    return min(pairs, key=lambda s: (abs(math.log(s[0] / s[1] / ratio)), abs(math.log(s[0] * s[1] / working.area)), s))


def prepare(
    request: EditRequest,
    placement: PlacementSettings,
    working: WorkingSize,
    can_inpaint: bool = False,
    takes_boxes: bool = False,
) -> Prepared:
    """What the model gets for a request.

    A global task, or a request without boxes, is always edited whole. A crop that would be nearly the whole photograph
    becomes `words`. Several boxes (a hybrid's) share one crop around them all.

    Raises EditError for a request without an instruction, or with boxes of which nothing lies in the photograph, and
    ValueError if `placement` wants what the engine has not (engines say so when their settings are checked:
    `check_way`).
    """
    check_way(placement, can_inpaint, takes_boxes)
    if not request.instruction.strip():
        raise EditError("NoInstruction", "the row has no instruction, and a model works from nothing else")
    height, width = request.photo.shape[:2]
    targets = _targets(request, width, height)
    region = _crop_region(targets, placement, width, height) if targets else None
    way = _way(placement, can_inpaint, takes_boxes, targets, region, width * height)
    shown = region if way == "crop" and region is not None else (0, 0, width, height)
    size = working_size(shown[2] - shown[0], shown[3] - shown[1], working)
    prompt, mask = request.instruction, None
    frames: tuple[tuple[Box, Box], ...] = ()
    if way == "crop":
        frames = ((boxes.union(targets), shown),)
    elif way == "inpaint":
        frames = tuple((box, boxes.grow(box, placement.mask_margin, width, height)) for box in targets)
        mask = _mask([limit for _, limit in frames], (size[0] / width, size[1] / height), size)
    elif way == "words":
        prompt = with_place(prompt, targets, width, height)
    image = _resize(boxes.crop(request.photo, shown), size)
    x, y = size[0] / (shown[2] - shown[0]), size[1] / (shown[3] - shown[1])
    told = [((a - shown[0]) * x, (b - shown[1]) * y, (c - shown[0]) * x, (d - shown[1]) * y) for a, b, c, d in targets]
    inside = tuple(boxes.clip(box, *size) for box in told)
    return Prepared(image, prompt, mask, way, request.photo, shown, frames, placement.feather, inside)


def finish(prepared: Prepared, result: np.ndarray) -> Edit:
    """The pair, at the photograph's size.

    Args:
        result: what the model gave, RGB uint8 (h, w, 3) of any size. Where its aspect ratio is not the one asked for,
            `registration.find_frame` tells whether it was stretched, cropped or padded.

    Returns:
        An Edit whose source is the photograph. With `crop` and `inpaint` the answer is aligned with the photograph
        before it is mixed in, and `mask` is where it was.

    Raises EditError for what is no picture, or one of a single colour: what models give whose numbers overflowed, and
    servers whose safety check struck.
    """
    _check(prepared, result)
    x1, y1, x2, y2 = prepared.region
    size = (x2 - x1, y2 - y1)
    if not prepared.frames:
        return Edit(None, _resize(_on_grid(prepared, result, size), size), None, prepared.way)
    # A border mixed of two pictures that lie a few pixels apart shows every edge twice. Found at the model's own size:
    # a finer shift than that is not in its answer.
    aligned = registration.register(prepared.image, _on_grid(prepared, result, prepared.size))
    valid = cv2.resize(aligned.valid.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    matte = blending.quantise(np.where(valid, _matte(prepared), 0))
    picture, mask = prepared.photo.copy(), np.zeros(prepared.photo.shape[:2], dtype=bool)
    window = boxes.crop(picture, prepared.region)
    # Weights of 0 and 1 give the one picture's pixels exactly.
    window[:] = cv2.blendLinear(_resize(aligned.edited, size), window.copy(), matte, 1 - matte)
    boxes.crop(mask, prepared.region)[:] = matte > 0
    return Edit(None, picture, mask, prepared.way)


def check_way(placement: PlacementSettings, can_inpaint: bool, takes_boxes: bool = False) -> None:
    """Raises ValueError if the placement asks for what the engine cannot do; for validators of engines' settings."""
    if placement.way == "boxes" and not takes_boxes:
        raise ValueError(
            "placement.way: boxes needs a model that takes them (FineEditPipeline); use auto, crop or words"
        )
    if placement.way == "inpaint" and not can_inpaint:
        raise ValueError("placement.way: inpaint needs an engine that takes a mask; use auto, crop or words")


def with_place(instruction: str, targets: Sequence[Box], width: int, height: int) -> str:
    """The instruction, and a sentence about where the boxes are, if that can be said and has not been.

    >>> with_place("Make the car red.", [(0, 0, 30, 20)], 100, 100)
    'Make the car red. The place to edit is in the upper left corner of the image.'
    >>> with_place("Make the car in the top left corner red.", [(0, 0, 30, 20)], 100, 100)
    'Make the car in the top left corner red.'
    """
    sides = dict.fromkeys(_side(Place.of(box, width, height)) for box in targets)
    if not sides or "" in sides or all(_says(instruction, side) for side in sides):
        return instruction
    phrases = [PHRASES[side][0] for side in sides]
    subject = "place to edit is" if len(targets) == 1 else "places to edit are"
    text = instruction.rstrip()
    stop = "" if text.endswith((".", "!", "?")) else "."
    return f"{text}{stop} The {subject} {' and '.join(phrases)} of the image."


def _side(place: Place) -> str:
    """A key of PHRASES, or "" where none is certain: nothing is "in the middle" that is nearly everywhere."""
    return "" if min(place.w, place.h) > WIDE else place.side


def _says(instruction: str, side: str) -> bool:
    words = set(re.findall(r"[a-z]+", instruction.lower()))
    return all(any(word in words for word in _SYNONYMS[part]) for part in side.split() if part != "corner")


_SYNONYMS = {
    "left": ("left", "leftmost"),
    "right": ("right", "rightmost"),
    "top": ("top", "upper", "topmost"),
    "upper": ("top", "upper", "topmost"),
    "bottom": ("bottom", "lower"),
    "lower": ("bottom", "lower"),
    "middle": ("middle", "centre", "center", "central"),
}


def _targets(request: EditRequest, width: int, height: int) -> list[Box]:
    """The request's boxes inside the photograph; none for a task of the whole picture."""
    if tasks.of(request.task).whole:
        return []
    clipped = [boxes.clip(box, width, height) for box in request.boxes]
    targets = [box for box in clipped if boxes.area(box)]
    if clipped and not targets:
        given = ", ".join(str(tuple(box)) for box in request.boxes)
        raise EditError("BadBox", f"no pixel of the photograph ({width} x {height}) lies in its target: {given}")
    return targets


def _way(
    placement: PlacementSettings,
    can_inpaint: bool,
    takes_boxes: bool,
    targets: Sequence[Box],
    region: Box | None,
    pixels: int,
) -> Way:
    if not targets or region is None:
        return "whole"
    way = placement.way
    if way == "auto" and can_inpaint:
        way = "inpaint"
    elif way == "auto":
        way = "crop" if boxes.area(boxes.union(targets)) < placement.crop_below * pixels else "words"
    if way == "crop" and boxes.area(region) > LARGEST_CROP * pixels:
        way = "words"
    return "boxes" if way == "words" and takes_boxes and placement.way != "words" else way


def _crop_region(targets: Sequence[Box], placement: PlacementSettings, width: int, height: int) -> Box:
    """The targets with their surroundings, grown to the next of CROP_SHAPES where the photograph has room."""
    target = boxes.union(targets)
    longer = max(target[2] - target[0], target[3] - target[1])
    pad = max(math.ceil(placement.margin * longer), placement.least_margin)
    across = max(target[2] - target[0] + 2 * pad, placement.least_side)
    down = max(target[3] - target[1] + 2 * pad, placement.least_side)
    grown = [(max(across, math.ceil(down * shape)), max(down, math.ceil(across / shape))) for shape in CROP_SHAPES]
    across, down = min(grown, key=lambda size: size[0] * size[1])
    x1, x2 = _span(target[0], target[2], across, width)
    y1, y2 = _span(target[1], target[3], down, height)
    return x1, y1, x2, y2


def _span(low: int, high: int, length: int, limit: int) -> tuple[int, int]:
    """A span of `length` around low..high, moved into 0..limit, or all of it where it is shorter."""
    length = min(length, limit)
    start = min(max(0, (low + high - length) // 2), limit - length)
    return start, start + length


def _mask(limits: Sequence[Box], scale: tuple[float, float], size: tuple[int, int]) -> np.ndarray:
    """uint8 (h, w), 255 on every pixel that a box touches: paint beside it is dropped, a hole in it would show."""
    x, y = scale
    scaled = [boxes.clip((box[0] * x, box[1] * y, box[2] * x, box[3] * y), *size) for box in limits]
    return np.where(boxes.to_mask(scaled, size[1], size[0]), 255, 0).astype(np.uint8)


def _matte(prepared: Prepared) -> np.ndarray:
    """float32, of the region's size: 1 in the targets, falling to 0 at the limits, but where the photograph ends."""
    height, width = prepared.photo.shape[:2]
    x, y, right, bottom = prepared.region
    matte = np.zeros((bottom - y, right - x), np.float32)
    for target, limit in prepared.frames:
        soft = prepared.feather * min(limit[2] - limit[0], limit[3] - limit[1])
        across = _ramp((target[0], target[2]), (limit[0], limit[2]), soft, width)
        down = _ramp((target[1], target[3]), (limit[1], limit[3]), soft, height)
        window = boxes.crop(matte, (limit[0] - x, limit[1] - y, limit[2] - x, limit[3] - y))
        np.maximum(window, np.minimum(down[:, None], across[None, :]), out=window)
    return matte


def _ramp(target: tuple[int, int], limit: tuple[int, int], soft: float, end: int) -> np.ndarray:
    """float32 (limit's length,): rises over `soft` pixels from its ends; 1 on the target, and at 0 and `end`."""
    centres = np.arange(limit[0], limit[1], dtype=np.float32) + 0.5
    before, after = min(target[0] - limit[0], soft), min(limit[1] - target[1], soft)
    rise = np.ones(len(centres), np.float32)
    if limit[0] > 0 and before >= 1:
        rise = np.minimum(rise, (centres - limit[0]) / before)
    if limit[1] < end and after >= 1:
        rise = np.minimum(rise, (limit[1] - centres) / after)
    return rise.astype(np.float32)


def _on_grid(prepared: Prepared, result: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The answer as a picture of all that was shown: stretched to `size`, or put where its content belongs."""
    given, asked = result.shape[1] / result.shape[0], prepared.size[0] / prepared.size[1]
    if abs(math.log(given / asked)) <= SAME_SHAPE:
        return _resize(result, size)
    frame = registration.find_frame(prepared.image, result)
    return registration.to_frame(result, frame, *prepared.size)


def _resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """To (width, height): averaging where it shrinks, Lanczos where it grows; an image of that size as it is."""
    if (image.shape[1], image.shape[0]) == size:
        return np.ascontiguousarray(image)
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4
    return cv2.resize(np.ascontiguousarray(image), size, interpolation=interpolation)


def _next(floor: int) -> tuple[int, int]:
    return floor, floor + 1


def _check(prepared: Prepared, result: np.ndarray) -> None:
    if result.dtype != np.uint8 or result.ndim != 3 or result.shape[2] != 3 or 0 in result.shape:
        raise EditError("BadAnswer", f"the editor gave {result.dtype} {result.shape} where RGB uint8 (h, w, 3) was due")
    if _is_blank(result) and not _is_blank(prepared.image):
        colour = ", ".join(str(value) for value in result[0, 0])
        raise EditError("BlankAnswer", f"the editor gave a picture of one colour ({colour})")


def _is_blank(image: np.ndarray) -> bool:
    return bool((image == image[0, 0]).all())
