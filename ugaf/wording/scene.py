"""One photograph as the choice of edits sees it: a small version, its objects with what was measured of them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from ugaf.imaging import boxes, images
from ugaf.stage import RowError
from ugaf.wording import calm, colours, naming, tones
from ugaf.wording.naming import Facts, Name

SIDE = 512
"""Longer side of the photograph at working size, pixels."""

MIN_SIDE = 24
"""Objects narrower or lower than this many pixels of the full image are no targets."""
SURE = 0.38
"""Detector score from which a box is taken for an object that could be removed, replaced or given a new background."""
LEAST, SURE_OF_LARGE = 0.28, 0.4
"""An object without a label is a target from the score LEAST + SURE_OF_LARGE x area (share of the image): what covers
much of the picture and is found with little certainty is a region more often than a thing."""
MAX_JOINED = 0.12
"""Share of an object's outline that may run along other objects before it counts as a part of something."""
MAX_TARGET = 0.6
"""Box area, as a share of the image, above which an object is no target of a local edit (ImgEdit, section 3)."""


@dataclass(frozen=True)
class Thing:
    """An object. fill: share of the box in its mask, None without a mask. borders: how many image borders the box
    touches. names: see `naming.names_for`. joined: share of its outline that runs along another object."""

    facts: Facts
    score: float
    fill: float | None
    borders: int
    names: tuple[Name, ...]
    joined: float = 0.0

    @property
    def position(self) -> int:
        return self.facts.position

    @property
    def box(self) -> boxes.Box:
        return self.facts.box

    @property
    def outlined(self) -> bool:
        """It has a mask that is plausibly an object's: neither specks nor the whole box, and it is not cut off."""
        return self.fill is not None and 0.25 <= self.fill <= 0.97 and self.borders <= 2

    @property
    def whole(self) -> bool:
        """It can leave its place, or stay alone in it: surely an object, and not the part of one."""
        return self.outlined and (self.labelled or self.score >= SURE) and self.joined <= MAX_JOINED

    @property
    def labelled(self) -> bool:
        """A detector that knows what it is found it, and its own threshold let it pass."""
        return bool(self.facts.label)

    @property
    def targetable(self) -> bool:
        x1, y1, x2, y2 = self.box
        area = self.facts.place.area
        sure = self.labelled or self.score >= LEAST + SURE_OF_LARGE * area
        return sure and bool(self.names) and min(x2 - x1, y2 - y1) >= MIN_SIDE and area <= MAX_TARGET


def joined_outlines(objects: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> list[float]:
    """For each object, the share (0..1) of its mask's outline within 1.5 % of the image of another object's mask.

    A cup on its saucer, a collar on its suit: parts of one thing, found as two. 0 without a mask.
    """
    scale = SIDE / 2 / max(size)
    width, height = (max(1, round(side * scale)) for side in size)
    masks = []
    for found in objects:
        canvas = np.zeros((height, width), np.uint8)
        if found.get("mask"):
            x1, y1, x2, y2 = (round(value * scale) for value in found["box"])
            x2, y2 = min(width, max(x2, x1 + 1)), min(height, max(y2, y1 + 1))
            mask = images.decode_mask(found["mask"]).astype(np.uint8)
            canvas[y1:y2, x1:x2] = cv2.resize(mask, (x2 - x1, y2 - y1), interpolation=cv2.INTER_AREA)
        masks.append(canvas)
    near = np.ones((9, 9), np.uint8)
    shares = []
    for i, mask in enumerate(masks):
        outline = (mask > 0) & (cv2.erode(mask, np.ones((3, 3), np.uint8)) == 0)
        others = np.zeros_like(mask)
        for j, other in enumerate(masks):
            if j != i:
                others |= other
        beside = cv2.dilate(others, near) > 0
        shares.append(float((outline & beside).sum() / max(1, outline.sum())))
    return shares


class Scene:
    """A photograph with its objects. All measurements are made on first use and kept.

    Attributes:
        id: the photograph's. width, height: pixels of the full image. photo: RGB uint8, longer side at most SIDE.
        objects: as in the column `objects`.
    """

    def __init__(self, id: str, photo: np.ndarray, size: tuple[int, int], objects: Sequence[Mapping[str, Any]]) -> None:
        self.id = id
        self.photo = photo
        self.width, self.height = size
        self.objects = list(objects or ())

    @functools.cached_property
    def things(self) -> list[Thing]:
        names = colours.name_indices(self.photo)
        size = (self.width, self.height)
        measured: list[tuple[Facts, float, float | None, int]] = []
        for position, found in enumerate(self.objects):
            box = checked_box(found["box"], size, position, self.id)
            mask = images.decode_mask(found["mask"]) if found.get("mask") else None
            fill = float(mask.mean()) if mask is not None and mask.size else None
            facts = naming.facts(position, box, found.get("label"), mask, self.photo, size, names)
            measured.append(
                (facts, 1.0 if found.get("score") is None else float(found["score"]), fill, borders_touched(box, size))
            )
        everything = [facts for facts, *_ in measured]
        joined = joined_outlines(self.objects, size)
        return [
            Thing(facts, score, fill, borders, tuple(naming.names_for(facts, everything)), share)
            for (facts, score, fill, borders), share in zip(measured, joined, strict=True)
        ]

    @functools.cached_property
    def tones_there(self) -> dict[str, str]:
        return tones.already(self.photo)

    @functools.cached_property
    def unrestorable(self) -> dict[str, str]:
        return tones.unrestorable(self.photo)

    @functools.cached_property
    def calm_boxes(self) -> list[calm.Spot]:
        return calm.find(self.photo, (self.width, self.height), [thing.box for thing in self.things])


def checked_box(box: Sequence[int], size: tuple[int, int], position: int, id: str) -> boxes.Box:
    """The box as ints; RowError if it is empty or leaves the image."""
    x1, y1, x2, y2 = (int(v) for v in box)
    if not (0 <= x1 < x2 <= size[0] and 0 <= y1 < y2 <= size[1]):
        raise RowError(
            f"objects[{position}] of {id}: box {list(box)} is empty or outside the {size[0]} x {size[1]} image"
        )
    return x1, y1, x2, y2


def borders_touched(box: boxes.Box, size: tuple[int, int]) -> int:
    """How many of the four image borders the box touches, to 0.4 % of the longer side."""
    margin = max(2, round(0.004 * max(size)))
    x1, y1, x2, y2 = box
    return (x1 <= margin) + (y1 <= margin) + (x2 >= size[0] - margin) + (y2 >= size[1] - margin)
