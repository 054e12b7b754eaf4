"""A finished pair as the models that judge it get it: on one grid, prepared when its turn comes.

Decoded pairs are large. So a batch of rows is handed to a judge as an iterator, and each pair is decoded, registered
and reduced only when the judge takes it: one that waits for a server holds the pictures of the requests that are under
way, and no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np

from ugaf.base import chance
from ugaf.imaging import boxes, images
from ugaf.imaging.boxes import Box
from ugaf.imaging.registration import on_one_grid
from ugaf.stage import Row, RowError

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Pair:
    """A pair to be judged.

    Attributes:
        source: RGB uint8 (height, width, 3).
        edited: RGB uint8, registered to the source: the same shape, the same grid.
        mask: bool (height, width), where the pair changed (`ugaf.measures.change`).
        instruction, task: what was asked for; "" and None if unknown.
        boxes: target boxes in pixels of `source`; empty for a global edit or where unknown.
        seed: for judges that draw; it follows from the row alone.
    """

    source: np.ndarray
    edited: np.ndarray
    mask: np.ndarray
    instruction: str
    task: str | None
    boxes: tuple[Box, ...]
    seed: int = 0


def prepare(row: Row, side: int) -> Pair:
    """The row's pair on one grid, its longer side reduced to `side`.

    Reads image, edited_image, source_image (if there), change_mask, shift_x, shift_y, boxes, task, instruction (if
    there). Raises RowError where the change mask is of another picture.
    """
    source = row.source()
    height, width = source.shape[:2]
    mask = images.decode_mask(row["change_mask"])
    if mask.shape != (height, width):
        size = f"{mask.shape[1]} x {mask.shape[0]}"
        raise RowError(f"change_mask is {size}, the source {width} x {height}: run refinement.change_mask again")
    source, edited = on_one_grid(source, row.edited(), side, shift=(row["shift_x"], row["shift_y"]))
    shape = source.shape[:2]
    targets = tuple(scaled(box, (width, height), shape) for box in row["boxes"] or ())
    instruction = row.get("instruction") or ""
    return Pair(source, edited, resize_mask(mask, shape), instruction, row["task"], targets, seed_of(row.id))


def seed_of(id: str, purpose: str = "") -> int:
    """A seed, 0..2^31 - 1, that follows from a row's id (and a purpose): the same in every run."""
    return chance.seed(f"{id}/{purpose}", "little")


def scaled(box: Sequence[float], size: tuple[int, int], shape: tuple[int, int]) -> Box:
    """A box in an image of `size` (width, height) as one of the same image in `shape` (height, width)."""
    fx, fy = shape[1] / size[0], shape[0] / size[1]
    return boxes.clip((box[0] * fx, box[1] * fy, box[2] * fx, box[3] * fy), shape[1], shape[0])


def resize_mask(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A mask, bool (height, width), in another shape, by nearest neighbour."""
    if mask.shape == shape:
        return mask
    return cv2.resize(mask.astype(np.uint8), (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST).astype(bool)


def unshared(row: Row) -> Row:
    """The same row with a memory of its own for decoded images: they go when it goes, not at the end of the batch."""
    return Row(row.id, row.values, unshared(row.parent) if row.parent is not None else None)
