"""The embedded class-agnostic detector: finds objects by segmentation, without weights, network or GPU.

The photograph is cut into superpixels, which are merged along three hierarchies; every node, every union of a few
neighbouring nodes, and what stands before the background are candidates, some two thousand an image. Each is measured
(contour along its outline, contrast to its surround and to the rest, saliency, reach along the image's border, size,
fill) and scored 0..1; overlapping ones are suppressed, and a mask is cut for each that is left.

It knows no classes: it finds things that differ from what is around them. A white dog on a white floor, or an object
that fills the picture, is beyond it; a learned detector is one setting away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ugaf.base.failure import each
from ugaf.imaging import boxes
from ugaf.imaging.boxes import Box
from ugaf.models.detectors.interface import Detection, DetectQuery
from ugaf.models.detectors.proposals import object_masks, region_trees, segmentation
from ugaf.models.detectors.proposals.segmentation import Regions
from ugaf.stage import Failure

FLOOR = 0.1
"""Regions scored lower are never reported."""
SHORTLIST = 150
SMALLEST, LARGEST = 0.004, 0.8
"""Shares of the image that a candidate may have."""
CUTS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 28)
UNION_CUTS = (8, 12, 18)
BESIDE = 0.5
"""Two things stand side by side when their boxes share less than this of the smaller one."""


@dataclass(frozen=True)
class Measures:
    """What is measured of each of m regions: float (m,) each.

    Attributes:
        area: share of the image, 0..1.
        fill: share of its box, 0..1.
        wall: mean contour strength along its outline (the image's border left out), 0..1.
        inner: mean contour strength along the superpixel boundaries inside it, 0..1.
        focus: mean sharpness along its outline, weighted with the contour strength, 0..1.
        contrast: how well its colours tell it from a ring around it, 0 (the same) .. 1 (no common colour).
        unique: how well they tell it from all the rest of the image, 0..1.
        salience: mean saliency inside less that of the ring, -1..1.
        rim: share of its outline that is the image's border, 0..1.
    """

    area: np.ndarray
    fill: np.ndarray
    wall: np.ndarray
    inner: np.ndarray
    focus: np.ndarray
    contrast: np.ndarray
    unique: np.ndarray
    salience: np.ndarray
    rim: np.ndarray


class ProposalDetector:
    """Finds objects in RGB images; implements `ugaf.models.detectors.interface.Detector`. Labels are None.

    The same image gives the same boxes, masks and scores (rounded to six decimals). About 0.5 s an image on one
    core, nearly whatever its size.
    """

    name = "proposals"
    version = 3
    labels = False

    class Settings(BaseModel):
        """Options of the engine `proposals`."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        working_side: int = Field(
            default=320, ge=96, le=1024, description="Longer side in pixels of the copy in which objects are searched."
        )
        superpixels: int = Field(
            default=400, ge=50, le=1500, description="About how many superpixels an image is cut into."
        )
        max_boxes: int = Field(default=8, ge=1, le=50, description="At most this many objects an image, the best ones.")
        min_outline: float = Field(
            default=0.8,
            ge=0,
            le=1,
            description="Least share of a mask's outline across which the colour clearly changes; 0 keeps every box.",
        )
        masks: bool = Field(default=True, description="Cut an object mask for each box, and tighten the box to it.")

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or self.Settings()

    def detect(self, queries: Sequence[DetectQuery]) -> list[list[Detection] | Failure]:
        """For each photograph: its objects, best first."""
        return each(lambda query: self._detect(query.photo()), queries)

    def _detect(self, image: np.ndarray) -> list[Detection]:
        longer = max(image.shape[:2])
        regions = segmentation.superpixels(_fit(image, self.settings.working_side), self.settings.superpixels)
        members, scores = propose(regions, self.settings.max_boxes)
        moderate = _fit(image, min(longer, 2 * self.settings.working_side))
        found: list[Detection] = []
        for member, score in zip(members, scores, strict=True):
            detection = self._detection(image, moderate, member[regions.labels], float(score))
            if self._ends_nowhere(detection, moderate, image.shape):
                continue
            if not any(_same_thing(detection, other) for other in found):
                found.append(detection)
        return found

    def _ends_nowhere(self, found: Detection, moderate: np.ndarray, shape: Sequence[int]) -> bool:
        if found.mask is None or self.settings.min_outline == 0:
            return False
        support = object_masks.outline_support(moderate, found.box, found.mask, shape[1], shape[0])
        return support < self.settings.min_outline

    def _detection(self, image: np.ndarray, moderate: np.ndarray, region: np.ndarray, score: float) -> Detection:
        height, width = image.shape[:2]
        if self.settings.masks:
            region = cv2.resize(region.astype(np.uint8), moderate.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0
            cut = object_masks.cut_out(moderate, region, width, height)
            if cut is not None:
                return Detection(cut[0], None, score, cut[1])
        tight = boxes.of_mask(region)
        assert tight is not None, "a region has pixels"
        return Detection(_scaled(tight, region.shape, height, width), None, score, None)


def _same_thing(one: Detection, other: Detection) -> bool:
    """Whether two detections have come to lie on the same pixels, as cuts of different regions may."""
    if boxes.iou(one.box, other.box) > 0.6:
        return True
    if one.mask is None or other.mask is None or not boxes.intersection(one.box, other.box):
        return False
    x1, y1 = max(one.box[0], other.box[0]), max(one.box[1], other.box[1])
    x2, y2 = min(one.box[2], other.box[2]), min(one.box[3], other.box[3])
    a = one.mask[y1 - one.box[1] : y2 - one.box[1], x1 - one.box[0] : x2 - one.box[0]]
    b = other.mask[y1 - other.box[1] : y2 - other.box[1], x1 - other.box[0] : x2 - other.box[0]]
    return bool((a & b).sum() > 0.5 * min(one.mask.sum(), other.mask.sum()))


def _fit(image: np.ndarray, side: int) -> np.ndarray:
    """The image reduced so that its longer side is at most `side`."""
    scale = side / max(image.shape[:2])
    if scale >= 1:
        return image
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _scaled(box: Box, shape: Sequence[int], height: int, width: int) -> Box:
    sy, sx = height / shape[0], width / shape[1]
    x1, y1, x2, y2 = (round(v * s) for v, s in zip(box, (sx, sy, sx, sy), strict=True))
    return boxes.clip((x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)), width, height)


def propose(regions: Regions, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """The best objects: sets of superpixels bool (k, n), without holes, and their scores (k,), best first."""
    if regions.count < 3:
        return np.zeros((0, regions.count), dtype=bool), np.zeros(0)
    salient = segmentation.saliency(regions)
    members = candidates(regions, salient)
    if not len(members):
        return members, np.zeros(0)
    best = np.argsort(-score(measure(regions, members, salient)), kind="stable")[:SHORTLIST]
    members = np.concatenate([members[best], smoothed(regions, members[best])])
    on_border = regions.rims > 0
    members = _distinct([region_trees.fill_holes(m, regions.neighbours, on_border) for m in members], regions)
    scores = score(measure(regions, members, salient))
    kept = [i for i in suppress(regions, members, scores, limit) if scores[i] >= FLOOR]
    return members[kept], scores[kept]


def candidates(regions: Regions, salient: np.ndarray) -> np.ndarray:
    """Sets of superpixels that may be objects: bool (m, n), no two the same."""
    touching = regions.lengths > 0
    found: list[np.ndarray] = []
    for tree in region_trees.grow_all(regions):
        nodes = region_trees.nodes_of(tree, regions.count)
        found += list(nodes[regions.count :])
        for parts in CUTS:
            found += _before_background(regions, nodes[region_trees.cut(tree, regions.count, parts)])
        for parts in UNION_CUTS:
            found += _unions(nodes[region_trees.cut(tree, regions.count, parts)], touching)
    for level in np.quantile(salient, np.linspace(0.3, 0.97, 14)):
        found += region_trees.components(salient > level, regions.neighbours)
    return _distinct(found, regions)


def _distinct(found: Sequence[np.ndarray], regions: Regions) -> np.ndarray:
    """Those of an object's size, each once."""
    members = np.array(list({m.tobytes(): m for m in found}.values()), dtype=bool).reshape(-1, regions.count)
    share = members @ regions.sizes / regions.sizes.sum()
    return members[(share >= SMALLEST) & (share <= LARGEST)]


def _before_background(regions: Regions, parts: np.ndarray) -> list[np.ndarray]:
    """What is left, by connected component, when the parts that reach far along the border are taken away."""
    sizes = parts @ regions.sizes
    reach = parts @ regions.rims / np.sqrt(sizes)
    found: list[np.ndarray] = []
    for limit in (0.5, 1.0):
        background = parts[(reach > limit) & (sizes > 0.02 * regions.sizes.sum())].any(axis=0)
        found += region_trees.components(~background, regions.neighbours)
    return found


def _unions(parts: np.ndarray, touching: np.ndarray) -> list[np.ndarray]:
    """Every two parts that touch, and every three in a chain."""
    weights = parts.astype(np.float32)
    near = (weights @ touching.astype(np.float32) @ weights.T) > 0
    pairs = [(i, j) for i in range(len(parts)) for j in range(i + 1, len(parts)) if near[i, j]]
    chains = {
        tuple(sorted((i, j, int(k)))) for i, j in pairs for k in np.flatnonzero(near[i] | near[j]) if k not in (i, j)
    }
    return [np.any(parts[list(group)], axis=0) for group in (*pairs, *sorted(chains))]


def smoothed(regions: Regions, members: np.ndarray) -> np.ndarray:
    """Regions with ragged outlines evened out: a superpixel goes with most of its outline. bool (m, n)."""
    around = np.maximum(regions.lengths.sum(axis=1) + regions.rims, 1)
    for _ in range(2):
        share = members.astype(np.float32) @ regions.lengths.astype(np.float32) / around
        members = (members & (share > 0.3)) | (share > 0.6)
    return members


def measure(regions: Regions, members: np.ndarray, salient: np.ndarray) -> Measures:
    """Measures of sets of superpixels, bool (m, n). The ring around a set is two superpixels wide."""
    inside = members.astype(np.float32)
    sizes = inside @ regions.sizes
    total = regions.sizes.sum()
    lengths = regions.lengths.astype(np.float32)
    strengths = (regions.lengths * regions.walls).astype(np.float32)
    within = ((inside @ lengths) * inside).sum(axis=1)
    within_strength = ((inside @ strengths) * inside).sum(axis=1)
    outline = inside @ lengths.sum(axis=1) - within
    outline_strength = inside @ strengths.sum(axis=1) - within_strength
    sharp = strengths * regions.focus.astype(np.float32)
    outline_focus = inside @ sharp.sum(axis=1) - ((inside @ sharp) * inside).sum(axis=1)
    rim = inside @ regions.rims
    touching = (lengths > 0).astype(np.float32)
    hop = ((inside @ touching) > 0) & ~members
    ring = ((hop.astype(np.float32) @ touching > 0) | hop) & ~members
    around = ring.astype(np.float32)
    ring_sizes = np.maximum(around @ regions.sizes, 1)
    own = inside @ regions.words
    rest = regions.words.sum(axis=0) - own
    near = around @ regions.words
    relative = salient / max(float(salient.max()), 1e-9) * regions.sizes
    box = region_boxes(regions, members)
    return Measures(
        area=sizes / total,
        fill=sizes / ((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])),
        wall=outline_strength / np.maximum(outline, 1),
        inner=within_strength / np.maximum(within, 1),
        # Sums of float32 that cancel may fall just below 0, of which a power is not a number.
        focus=np.clip(outline_focus / np.maximum(outline_strength, 1e-9), 0, 1),
        contrast=_told_apart(own / sizes[:, None], near / ring_sizes[:, None]),
        unique=_told_apart(own / sizes[:, None], rest / np.maximum(total - sizes, 1)[:, None]),
        salience=inside @ relative / sizes - around @ relative / ring_sizes,
        rim=rim / np.maximum(outline + rim, 1),
    )


def _told_apart(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How surely a pixel of `own` is told from one of `other` by its colour word: 0 (the same histograms) .. 1.

    The expected posterior of the right side with equal priors, from 1/2..1 stretched to 0..1.
    """
    return np.clip(2 * (own * own / np.maximum(own + other, 1e-9)).sum(axis=1) - 1, 0, 1)


def score(m: Measures) -> np.ndarray:
    """Objectness 0..1 of each region, float (m,): a product, so that every kind of evidence is needed.

    Cues after Alexe, Deselaers and Ferrari, "Measuring the objectness of image windows" (PAMI 2012): closed boundary,
    difference from the surround, saliency. Regions along the image's border, ragged, tiny or huge ones count less.
    The power 0.6 spreads the products of real photographs over the range: above 0.5 a clear object, below 0.3 mostly
    pieces of background.
    """
    stands_out = np.clip(0.45 + 1.6 * m.salience, 0.05, 1)
    framed = np.exp(-((m.rim / 0.28) ** 2))
    size = m.area / (m.area + 0.04) * np.clip((0.85 - m.area) / 0.4, 0, 1)
    compact = np.clip(m.fill / 0.5, 0, 1) ** 0.5
    whole = 2 * m.wall / np.maximum(m.wall + m.inner, 1e-9)
    evidence = m.wall * whole * m.contrast**0.4 * m.unique**0.5 * m.focus**0.5 * stands_out * framed * size * compact
    # Rounded, so that the last bits of a matrix product, which change with the number of threads, decide nothing.
    return np.round(np.clip(evidence, 0, 1) ** 0.6, 6)


def region_boxes(regions: Regions, members: np.ndarray) -> np.ndarray:
    """Tightest box (x1, y1, x2, y2), half-open, of each set of superpixels: int (m, 4)."""
    far = 1 << 30
    low = [np.where(members, regions.corners[None, :, c], far).min(axis=1) for c in (0, 1)]
    high = [np.where(members, regions.corners[None, :, c], -1).max(axis=1) for c in (2, 3)]
    return np.stack([*low, *high], axis=1)


def suppress(regions: Regions, members: np.ndarray, scores: np.ndarray, limit: int) -> list[int]:
    """Indices of at most `limit` regions that are different things, best first.

    A region goes when its box overlaps a better one by IoU 0.5, or when the two share over 0.4 of the smaller one's
    pixels. A region that two good ones make up (two animals side by side) gives way to them: see `_halves`.
    """
    corners = region_boxes(regions, members)
    areas = members @ regions.sizes
    shared = (members * regions.sizes) @ members.T.astype(np.float64)
    kept: list[int] = []
    covered: list[int] = []
    for i in np.argsort(-scores, kind="stable").tolist():
        if len(kept) >= limit:
            break
        if any(
            boxes.iou(corners[i], corners[k]) > 0.5 or shared[i, k] > 0.4 * min(areas[i], areas[k]) for k in covered
        ):
            continue
        halves = _halves(regions, members, scores, shared, i)
        kept += halves or [i]
        covered += [i, *halves]
    return sorted(kept, key=lambda i: -scores[i])[:limit]


def _halves(regions: Regions, members: np.ndarray, scores: np.ndarray, shared: np.ndarray, group: int) -> list[int]:
    """Two regions that make up `group`, side by side, each nearly as good, the contour between them strong; or []."""
    areas = shared.diagonal()
    inside = (shared[group] > 0.85 * areas) & (areas > 0.2 * areas[group]) & (areas < 0.75 * areas[group])
    parts = np.flatnonzero(inside & (scores > 0.65 * scores[group]))
    if len(parts) < 2:
        return []
    common = shared[np.ix_(parts, parts)]
    smaller = np.minimum.outer(areas[parts], areas[parts])
    together = areas[parts][:, None] + areas[parts][None] - common
    halves = members[parts].astype(np.float64)
    seam = halves @ regions.lengths @ halves.T
    seam_strength = halves @ (regions.lengths * regions.walls) @ halves.T / np.maximum(seam, 1)
    outline = halves @ regions.lengths.sum(axis=1) - seam.diagonal()
    corners = region_boxes(regions, members[parts])
    beside = np.array([[_box_overlap(a, b) < BESIDE for b in corners] for a in corners])
    apart = (common < 0.1 * smaller) & (together > 0.9 * areas[group])
    apart &= seam > 0.15 * np.minimum.outer(outline, outline)
    strong = seam_strength > 0.8 * _strength(regions, members[group], ~members[group])
    worth = np.where(apart & beside & strong, np.minimum.outer(scores[parts], scores[parts]) * together, 0)
    a, b = np.unravel_index(worth.argmax(), worth.shape)
    return [int(parts[a]), int(parts[b])] if worth[a, b] > 0 else []


def _box_overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over the smaller box, 0..1."""
    return boxes.intersection(a, b) / min(boxes.area(a), boxes.area(b))


def _strength(regions: Regions, one: np.ndarray, other: np.ndarray) -> float:
    """Mean contour strength along the boundary between two sets of superpixels."""
    lengths = regions.lengths[np.ix_(one, other)]
    return float((lengths * regions.walls[np.ix_(one, other)]).sum() / max(float(lengths.sum()), 1.0))
