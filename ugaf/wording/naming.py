"""A name for one object of a photograph that nothing else in it would answer to.

A name says only what was measured: the detector's label if it gave one (else "object"), the colour, the size and
the place. Candidates run from short to long; the first that no other detected object could be meant by is taken. A
name without a place must also own its colour: most of the photograph's pixels of that colour lie in the object's box,
for the detector may have missed another red thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ugaf.imaging import boxes
from ugaf.wording import colours, places
from ugaf.wording.colours import Colour
from ugaf.wording.places import Place

OWNED = 0.6
"""Share of the photograph's pixels of a colour that must lie in the box for the colour alone to identify it."""
ORDER_MARGIN = 0.06
"""Lead (share of width or height) that makes an object the leftmost, topmost, ... of its kind."""
PART = 0.8
"""Share of a box inside another that makes it a part."""
SAME = 0.7
"""Boxes that overlap by more (IoU) are one thing seen twice, and need not be told apart."""


@dataclass(frozen=True)
class Facts:
    """What was measured of one object.

    position: its place in the photograph's `objects`. box: pixels of the full image. label: the detector's, or "".
    colour: of the pixels in its mask (or box). owned: by basic colour name, the share (0..1) of the photograph's
    pixels of that colour that lie in the box. whole: True where a mask outlines it; else it is only an area.
    """

    position: int
    box: boxes.Box
    label: str
    colour: Colour
    place: Place
    owned: dict[str, float]
    whole: bool = True


@dataclass(frozen=True)
class Name:
    """The parts of a name; `spoken` puts them together. Empty parts are left out."""

    order: str = ""
    size: str = ""
    colour: str = ""
    label: str = ""
    side: str = ""
    whole: bool = True


def facts(
    position: int, box: Sequence[int], label: str | None, mask: np.ndarray | None, photo: np.ndarray,
    size: tuple[int, int], names: np.ndarray,
) -> Facts:  # fmt: skip
    """Measure one object.

    Args:
        box: pixels of the full image, whose (width, height) is `size`.
        mask: bool, of any size, covering the box; None takes the box's inner part.
        photo: the photograph at working size, RGB uint8 (h, w, 3).
        names: `colours.name_indices(photo)`.
    """
    width, height = size
    scale_x, scale_y = photo.shape[1] / width, photo.shape[0] / height
    small = boxes.clip(
        (box[0] * scale_x, box[1] * scale_y, box[2] * scale_x, box[3] * scale_y), photo.shape[1], photo.shape[0]
    )
    region = boxes.crop(photo, small)
    inside = _inner(region.shape[:2]) if mask is None else _resized(mask, region.shape[:2])
    pixels = region[inside] if inside.any() else region.reshape(-1, 3)
    everywhere = np.bincount(names.ravel(), minlength=len(colours.NAMES))
    within = np.bincount(boxes.crop(names, small).ravel(), minlength=len(colours.NAMES))
    owned = {name: float(within[i] / everywhere[i]) if everywhere[i] else 0.0 for i, name in enumerate(colours.NAMES)}
    x1, y1, x2, y2 = (int(v) for v in box)
    place = Place.of(box, width, height)
    return Facts(position, (x1, y1, x2, y2), (label or "").strip().lower(), colours.describe(pixels), place, owned,
                 mask is not None)  # fmt: skip


def _inner(shape: tuple[int, int]) -> np.ndarray:
    """The middle two thirds of a box: without an outline, its rim is as likely to be the surroundings."""
    mask = np.zeros(shape, dtype=bool)
    dy, dx = shape[0] // 6, shape[1] // 6
    mask[dy : shape[0] - dy, dx : shape[1] - dx] = True
    return mask


def _resized(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    rows = np.minimum(np.arange(shape[0]) * mask.shape[0] // max(1, shape[0]), mask.shape[0] - 1)
    columns = np.minimum(np.arange(shape[1]) * mask.shape[1] // max(1, shape[1]), mask.shape[1] - 1)
    return mask[rows[:, None], columns[None, :]]


def names_for(target: Facts, everything: Sequence[Facts]) -> list[Name]:
    """Every name of the target that no other object of `everything` could be meant by, the shortest first.

    Parts of the target are not taken for it: of a dog and its head, "the brown object" is the dog, so it is the head
    that needs another name. Empty where even the longest is ambiguous: then the object is no good target of an edit.
    """
    others = [other for other in everything if not _same(target, other) and not _part(other, target)]
    candidates = []
    for name in _candidates(target):
        if any(answers_to(other, name) for other in others):
            continue
        if not name.side and not _owns_its_colour(target, name) and not name.label:
            continue
        candidates.append(name)
    return candidates or _ordered(target, others) or _only_by_size(target, others)


def answers_to(other: Facts, name: Name) -> bool:
    """Whether somebody who hears the name could think of the other object."""
    if name.label and other.label and name.label != other.label:
        return False
    if name.colour and not any(_alike(part, other.colour) for part in _basic(name.colour)):
        return False
    return other.place.could_have(name.size) and (not name.side or other.place.could_be(name.side))


def _candidates(target: Facts) -> list[Name]:
    colour, size, side = target.colour.phrase, target.place.size, target.place.side
    label, whole = target.label, target.whole
    names = []
    for parts in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1), (1, 1, 1)):
        use_colour, use_size, use_side = parts
        if (use_colour and not colour) or (use_size and not size) or (use_side and not side):
            continue
        if not label and (not (use_colour or use_side) or (use_side and not use_colour and colour)):
            continue
        names.append(Name("", size * use_size, colour * use_colour, label, side * use_side, whole))
    return names


def _ordered(target: Facts, others: Sequence[Facts]) -> list[Name]:
    """Names by order among the objects of the same kind, as "the leftmost grey object"."""
    base = Name(colour=target.colour.phrase, label=target.label, whole=target.whole)
    rivals = [other for other in others if answers_to(other, base)]
    if not rivals or any(_part(target, rival) for rival in rivals) or not (base.colour or base.label):
        return []
    x, y, area = target.place.x, target.place.y, target.place.area
    tests = {
        "largest": all(area > rival.place.area * 1.5 for rival in rivals),
        "leftmost": all(x < rival.place.x - ORDER_MARGIN for rival in rivals),
        "rightmost": all(x > rival.place.x + ORDER_MARGIN for rival in rivals),
        "topmost": all(y < rival.place.y - ORDER_MARGIN for rival in rivals),
        "lowest": all(y > rival.place.y + ORDER_MARGIN for rival in rivals),
        "smallest": all(area < rival.place.area / 1.5 for rival in rivals),
    }
    return [
        Name(order, "", target.colour.phrase, target.label, "", target.whole) for order, holds in tests.items() if holds
    ]


def _only_by_size(target: Facts, others: Sequence[Facts]) -> list[Name]:
    """ "the large object", where it is the only one that is: for want of anything better."""
    name = Name(size="large", label=target.label, whole=target.whole)
    alone = target.place.size == "large" and not any(answers_to(other, name) for other in others)
    return [name] if alone else []


def _owns_its_colour(target: Facts, name: Name) -> bool:
    first = target.colour.names[0] if target.colour.names else ""
    return bool(name.colour) and first not in colours.NEUTRAL and target.owned.get(first, 0.0) >= OWNED


def _basic(phrase: str) -> list[str]:
    return [word for word in phrase.split() if word in colours.NAMES]


def _alike(name: str, colour: Colour) -> bool:
    close = colours.NEIGHBOURS[name] | {name}
    if colour.names:
        return any(other in close for other in colour.names)
    return sum(colour.shares.get(other, 0.0) for other in close) >= 0.3


def _part(a: Facts, b: Facts) -> bool:
    """Whether a is a part of b: smaller, and nearly all inside."""
    return boxes.area(a.box) < boxes.area(b.box) and boxes.intersection(a.box, b.box) >= PART * boxes.area(a.box)


def _same(a: Facts, b: Facts) -> bool:
    return a.position == b.position or boxes.iou(a.box, b.box) >= SAME


__all__ = ["Facts", "Name", "answers_to", "facts", "names_for", "places"]
