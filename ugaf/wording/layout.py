"""What can be asked of a photograph when a model looks at it itself: which task on which object, chosen by its boxes.

A vision-language writer sees the picture, so nothing is measured in it here and no mask is opened: boxes, labels and
scores are enough to share the edits out. For `add` the layout offers regions that hardly any object covers; the
region is marked like an object would be, and the model says what could stand there, or that nothing could. The box
that the model saw is then the edit's box, which no box of the model's own invention would be.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import cv2
import numpy as np

from ugaf.base import tasks
from ugaf.imaging import boxes
from ugaf.wording import sampling
from ugaf.wording.places import PHRASES, Place
from ugaf.wording.scene import LEAST, MAX_TARGET, MIN_SIDE, SURE_OF_LARGE, checked_box

BACKGROUND = (0.05, 0.6)
"""Box area (share of the image) of an object whose background is changed."""
USED, UNLIKELY = 0.2, 0.1
"""Weight of an object that has an edit already, and of one whose label does not suit the task, against others."""

SUITED: dict[str, frozenset[str]] = {
    "motion": frozenset({
        "person", "man", "woman", "child", "boy", "girl", "people", "dog", "cat", "bird", "horse", "sheep",
        "cow", "elephant", "bear", "zebra", "giraffe", "animal", "duck", "fish", "monkey", "rabbit", "deer",
        "goat", "pig", "chicken", "swan", "lion", "tiger", "fox", "butterfly", "player", "rider", "athlete",
        "dancer", "surfer", "car", "bicycle", "bike", "motorcycle", "boat", "bus", "train", "plane",
        "airplane", "umbrella", "door", "flag", "kite",
    }),
    "text": frozenset({
        "sign", "signboard", "book", "shirt", "t-shirt", "mug", "cup", "bottle", "box", "bag", "backpack",
        "truck", "bus", "car", "van", "poster", "banner", "board", "billboard", "screen", "laptop", "tv",
        "monitor", "clock", "package", "can", "jar", "flag", "hat", "cap", "wall", "door", "menu", "label",
        "newspaper", "magazine", "phone", "cake", "boat", "train", "plate", "notebook", "card", "paper",
        "storefront", "shop", "building", "blackboard", "whiteboard",
    }),
}  # fmt: skip
"""Words of labels that suit a task. Other objects are chosen seldom for it; the model says whether it makes sense."""

REGION_SIDES = (0.4, 0.3, 0.22)
"""Sides of the regions tried for `add`, as shares of the image's shorter side."""
REGION_ASPECTS = (1.0, 0.7, 1.4)
"""Widths of the regions tried, as multiples of their height."""
MAX_COVERED, MAX_SHARED = 0.08, 0.2
"""Share of a region that objects may cover, and the largest IoU of two regions."""
GRID = 128
"""Cells along the longer side of the image in which regions are looked for."""
STANDING = 0.65
"""Height (share of the image from the top) near which regions are preferred: things stand there, above is often sky."""
BORDER = 0.03
"""Share of the shorter side that regions leave free at the image's borders."""


def offered() -> dict[str, float]:
    """The tasks of edits that belong to a box, as every edit of a vision-language writer does (FineEdit, section 4.1),
    with their default weights. What has none is not among them: a new tone for the whole picture, and restoration,
    whose source no instruction can make.
    """
    return {task.name: task.weight for task in tasks.TASKS.values() if task.weight > 0}


@dataclass(frozen=True)
class Target:
    """An object. position: in the column `objects`. label: the detector's, "" if it gives none. score: 0..1."""

    position: int
    box: boxes.Box
    label: str
    score: float
    place: Place


@dataclass(frozen=True)
class Plan:
    """One thing to ask. marked: the boxes that are shown to the model. targets: the objects in them; none for `add`."""

    task: str
    marked: tuple[boxes.Box, ...]
    targets: tuple[Target, ...] = ()

    @property
    def boxes(self) -> tuple[boxes.Box, ...]:
        """The edit's target boxes; none where it changes what is outside of the marked one."""
        return () if tasks.of(self.task).whole else self.marked


class Layout:
    """A photograph's objects and free regions. size: (width, height), pixels; objects: as in the column `objects`.

    Raises RowError for a box that is empty or outside of the image.
    """

    def __init__(self, id: str, size: tuple[int, int], objects: Sequence[Mapping[str, Any]] | None) -> None:
        self.size = size
        self.objects: list[Target] = []
        for position, found in enumerate(objects or ()):
            box = checked_box(found["box"], size, position, id)
            label = " ".join(str(found.get("label") or "").split()).lower()
            self.objects.append(Target(position, box, label, float(found.get("score") or 0.0), Place.of(box, *size)))

    @functools.cached_property
    def targets(self) -> list[Target]:
        """Objects that a local edit may be about: large enough to be seen, small enough to leave a rest."""
        return [target for target in self.objects if _targetable(target)]

    @functools.cached_property
    def regions(self) -> list[boxes.Box]:
        return free_regions([target.box for target in self.objects], self.size)

    @functools.cached_property
    def slots(self) -> dict[str, list[Hashable]]:
        """The ways in which each task could be done: positions of objects, pairs of them, numbers of regions."""
        of = {target.position: target for target in self.targets}
        slots: dict[str, list[Hashable]] = {task: list(of) for task in offered()}
        slots["add"] = list(range(len(self.regions)))
        slots["background"] = [p for p, target in of.items() if BACKGROUND[0] <= target.place.area <= BACKGROUND[1]]
        pairs = combinations(of.values(), 2)
        slots["hybrid"] = [(a.position, b.position) for a, b in pairs if not boxes.intersection(a.box, b.box)]
        return slots

    def weight(self, task: str, slot: Any, used: Sequence[int]) -> float:
        """How much a slot is wanted: objects by the square of their score, less for one used before or ill suited."""
        if task == "add":
            return 1.0
        weight = 1.0
        for position in slot if isinstance(slot, tuple) else (slot,):
            target = self.objects[position]
            weight *= (0.1 + target.score) ** 2 * (USED if position in used else 1.0)
            if task in SUITED and target.label and not SUITED[task].intersection(target.label.split()):
                weight *= UNLIKELY
        return weight

    def plan(self, task: str, slot: Any) -> Plan:
        if task == "add":
            return Plan(task, (self.regions[slot],))
        targets = tuple(self.objects[position] for position in (slot if isinstance(slot, tuple) else (slot,)))
        return Plan(task, tuple(target.box for target in targets), targets)


def choose(
    layout: Layout, weights: Mapping[str, float], edits: int, each: int, rng: np.random.Generator
) -> list[tuple[Plan, int]]:
    """Plans, each with the number of instructions to ask for, that add up to `edits` if the layout allows as many.

    Edits are shared out in portions of `each`: one request for so many instructions, or for a task of one result so
    many requests, about different objects, for one. So the shares of the weights hold over edits
    (`sampling.allocate`). An image gets different tasks; one has a second portion only where all have one.

    Args:
        weights: by task, of `offered`.
        each: instructions of one request at most.
    """
    each = min(each, edits)
    free = {task: list(layout.slots.get(task, ())) for task in weights}
    portions = dict.fromkeys(weights, 0)
    chosen: list[tuple[Plan, int]] = []
    used: list[int] = []
    missing, rounds = edits, 1
    while missing > 0 and any(free[task] for task, weight in weights.items() if weight > 0):
        left = {task: -(-len(free[task]) // each) if tasks.of(task).one_result else len(free[task]) for task in weights}
        room = {task: min(left[task], rounds - portions[task]) for task in weights}
        counts = sampling.allocate(weights, room, -(-missing // each), rng)
        if not counts:
            rounds += 1
            continue
        order = [task for task, count in counts.items() for _ in range(count)]
        for task in (order[i] for i in rng.permutation(len(order))):
            portions[task] += 1
            wanted = min(each, missing)
            for number in [1] * wanted if tasks.of(task).one_result else [wanted]:
                if not free[task]:
                    break
                slot = _draw(free[task], [layout.weight(task, slot, used) for slot in free[task]], rng)
                free[task].remove(slot)
                chosen.append((layout.plan(task, slot), number))
                used.extend(target.position for target in chosen[-1][0].targets)
                missing -= number
    return chosen


def free_regions(occupied: Sequence[boxes.Box], size: tuple[int, int], limit: int = 6) -> list[boxes.Box]:
    """Regions of which boxes cover at most MAX_COVERED, larger ones first; the IoU of any two is at most MAX_SHARED.

    size: (width, height) of the image; regions are in its pixels.
    """
    scale = GRID / max(size)
    width, height = (max(1, round(side * scale)) for side in size)
    cells = [boxes.clip([value * scale for value in box], width, height) for box in occupied]
    sums = cv2.integral(boxes.to_mask(cells, height, width).astype(np.uint8)).astype(np.float64)
    found: list[boxes.Box] = []
    for share, aspect in product(REGION_SIDES, REGION_ASPECTS):
        side = share * min(width, height)
        w, h = round(side * min(1.0, aspect)), round(side * min(1.0, 1 / aspect))
        if min(w, h) < MIN_SIDE * scale:
            continue
        xs, ys, cost = _windows(sums, w, h)
        for region in found:
            cost[_iou(xs, ys, w, h, region) > MAX_SHARED] = np.inf
        while len(found) < limit and cost.size and np.isfinite(cost.min()):
            row, column = np.unravel_index(int(cost.argmin()), cost.shape)
            x, y = int(xs[column]), int(ys[row])
            found.append((x, y, x + w, y + h))
            cost[_iou(xs, ys, w, h, found[-1]) > MAX_SHARED] = np.inf
    return [boxes.clip([round(value / scale) for value in region], *size) for region in found]


def _windows(sums: np.ndarray, w: int, h: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left (m,) and upper (n,) edges of the windows of a size, and what speaks against each, (n, m); inf if not free.

    sums: integral image of what is taken.
    """
    height, width = sums.shape[0] - 1, sums.shape[1] - 1
    margin = round(BORDER * min(width, height))
    ys, xs = np.arange(margin, height - margin - h + 1, 2), np.arange(margin, width - margin - w + 1, 2)
    rows, columns = ys[:, None], xs[None, :]
    covered = sums[rows + h, columns + w] - sums[rows, columns + w] - sums[rows + h, columns] + sums[rows, columns]
    covered = covered / (w * h)
    # Nearer to where things stand, then nearer to the middle, is better.
    cost = np.abs((rows + h / 2) / height - STANDING) + 0.3 * np.abs((columns + w / 2) / width - 0.5) + covered
    return xs, ys, np.where(covered <= MAX_COVERED, cost, np.inf)


def _iou(xs: np.ndarray, ys: np.ndarray, w: int, h: int, region: boxes.Box) -> np.ndarray:
    """IoU of each window of a size with one region: (n, m)."""
    x1, y1, x2, y2 = region
    across = np.clip(np.minimum(xs + w, x2) - np.maximum(xs, x1), 0, None)
    down = np.clip(np.minimum(ys + h, y2) - np.maximum(ys, y1), 0, None)
    shared = down[:, None] * across[None, :]
    return shared / (w * h + boxes.area(region) - shared)


def where(place: Place) -> str:
    """A place in words: "in the lower left", or "" where no direction is certain."""
    return PHRASES[place.side][0] if place.side else ""


def _targetable(target: Target) -> bool:
    x1, y1, x2, y2 = target.box
    area = target.place.area
    sure = bool(target.label) or target.score >= LEAST + SURE_OF_LARGE * area
    return sure and min(x2 - x1, y2 - y1) >= MIN_SIDE and area <= MAX_TARGET


def _draw(slots: Sequence[Hashable], weights: Sequence[float], rng: np.random.Generator) -> Hashable:
    share = np.array(weights) / sum(weights)
    return slots[int(rng.choice(len(slots), p=share))]
