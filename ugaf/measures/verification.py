"""Rules that check a pair against its task by measurement: was the asked-for change made, and was the rest left alone?

Two scales as in FineEdit (arXiv 2604.10954, section 4.1, refinement (c)): global, the coherence of the whole image, and
local, the crop of the target box. Each check gives a score on 1..5 with a sentence that quotes what was measured. What
cannot be measured for a task is not scored: the score is None and the sentence says why.

Colours are CIE Lab (L 0..100); images RGB uint8, registered to one grid; masks bool (height, width).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from ugaf.imaging import boxes
from ugaf.imaging.boxes import Box
from ugaf.imaging.planes import disk
from ugaf.measures import quality
from ugaf.measures.change import difference, to_lab


@dataclass(frozen=True)
class Verdict:
    """score: 1 (clearly wrong) .. 5 (clearly right), None if it cannot be measured; reason: one plain sentence."""

    score: float | None
    reason: str


class Evidence:
    """What the rules look at: the registered pair, its change mask and its objects.

    Attributes:
        source, edited: RGB uint8, one shape.
        changed: bool, where the pair changed.
        objects: for each object index, its mask (bool, full size) or None.
    """

    def __init__(
        self,
        source: np.ndarray,
        edited: np.ndarray,
        changed: np.ndarray,
        objects: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        self.source, self.edited, self.changed = source, edited, changed
        self.objects = objects or {}
        self.before, self.after = to_lab(source), to_lab(edited)
        self._distance: np.ndarray | None = None

    @property
    def distance(self) -> np.ndarray:
        """Perceptual difference of each pixel: see `ugaf.measures.change.difference`."""
        if self._distance is None:
            self._distance = difference(self.before, self.after)[0]
        return self._distance

    @property
    def shape(self) -> tuple[int, int]:
        return self.changed.shape[0], self.changed.shape[1]

    def edited_pixels(self, box: Box) -> np.ndarray:
        """The changed pixels of a box: bool (height, width)."""
        return self.changed & boxes.to_mask([box], *self.shape)


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The lowest score with its reason; what is not scored does not count, unless nothing is scored."""
    scored = [verdict for verdict in verdicts if verdict.score is not None]
    if not scored:
        return Verdict(None, "; ".join(dict.fromkeys(verdict.reason for verdict in verdicts)) or "nothing to measure")
    return min(scored, key=lambda verdict: verdict.score or 0.0)


def ramp(value: float, points: Sequence[float]) -> float:
    """1..5 by linear interpolation of `value` between five rising (or falling) points."""
    x, y = np.asarray(points, float), np.arange(1.0, 6.0)
    return float(np.interp(value, x, y) if x[0] < x[-1] else np.interp(value, x[::-1], y[::-1]))


# The whole image ------------------------------------------------------------------------------------------------------


def background_kept(psnr: float | None, ssim: float | None) -> Verdict:
    """Fidelity outside the target: lower of the scores for PSNR (17 21 25 30 36 dB) and SSIM (.5 .65 .8 .9 .96)."""
    if psnr is None or ssim is None:
        return Verdict(None, "no background to compare: the target covers the image")
    score = min(ramp(psnr, (17, 21, 25, 30, 36)), ramp(ssim, (0.5, 0.65, 0.8, 0.9, 0.96)))
    return Verdict(score, f"background PSNR {psnr:.1f} dB, SSIM {ssim:.3f}")


def change_present(area: float, least: float = 0.0005) -> Verdict:
    """Something changed at all: 1 below `least` of the image's area, not scored above it."""
    if area < least:
        return Verdict(1.0, f"nothing changed ({100 * area:.2f} % of the image)")
    return Verdict(None, f"{100 * area:.1f} % of the image changed")


def tone(evidence: Evidence, name: str) -> Verdict:
    """A global tone edit, measured in the direction of its name."""
    before, after = evidence.before, evidence.after
    shift = (after - before).reshape(-1, 3).mean(axis=0)
    chroma = [float(np.linalg.norm(lab[..., 1:], axis=2).mean()) for lab in (before, after)]
    contrast = float(after[..., 0].std() / max(float(before[..., 0].std()), 0.5))
    light = (0.5, 1.5, 3, 5, 8)
    if name in ("warmer", "golden hour"):
        return Verdict(ramp(shift[2], light), f"b* moved by {shift[2]:+.1f} (warmer is up)")
    if name == "cooler":
        return Verdict(ramp(-shift[2], light), f"b* moved by {shift[2]:+.1f} (cooler is down)")
    if name == "brighter":
        return Verdict(ramp(shift[0], light), f"L moved by {shift[0]:+.1f} (brighter is up)")
    if name in ("darker", "night"):
        return Verdict(ramp(-shift[0], light), f"L moved by {shift[0]:+.1f} (darker is down)")
    if name == "high contrast":
        return Verdict(ramp(contrast, (1.0, 1.04, 1.08, 1.13, 1.2)), f"spread of L times {contrast:.2f}")
    if name == "faded film":
        return Verdict(ramp(contrast, (1.0, 0.97, 0.93, 0.88, 0.8)), f"spread of L times {contrast:.2f}")
    if name == "black and white":
        grey = ramp(chroma[1], (12, 8, 5, 3, 1.5))
        if chroma[0] - chroma[1] < 1:
            return Verdict(1.0, f"chroma {chroma[0]:.1f} before and {chroma[1]:.1f} after: no colour was taken")
        return Verdict(grey, f"chroma {chroma[0]:.1f} before, {chroma[1]:.1f} after")
    if name == "sepia":
        spread = float(_around_curve(after))
        yellow = ramp(float(after[..., 2].mean()), (0, 3, 6, 9, 12))
        return Verdict(
            min(yellow, ramp(spread, (14, 10, 7, 5, 3))),
            f"mean b* {after[..., 2].mean():.1f}, colours {spread:.1f} around one tint",
        )
    return Verdict(None, f"no rule for tone {name!r}")


def restored(evidence: Evidence, degradation: str) -> Verdict:
    """The edited image lacks the flaw that the source has: less noise, less of a block grid, or more fine detail."""
    everywhere = np.ones(evidence.shape, dtype=bool)
    before, after = evidence.before[..., 0], evidence.after[..., 0]
    if degradation == "noise":
        old, new = quality.noise_sigma(before, everywhere), quality.noise_sigma(after, everywhere)
        return Verdict(
            ramp(old / max(new, 0.05), (1, 1.15, 1.4, 1.8, 2.5)), f"noise {old:.2f} before, {new:.2f} after (L)"
        )
    if degradation == "jpeg":
        old, new = quality.blockiness(before), quality.blockiness(after)
        return Verdict(ramp(old - new, (0, 0.03, 0.07, 0.12, 0.2)), f"block grid {old:.2f} before, {new:.2f} after")
    if degradation in ("blur", "low resolution"):
        old, new = quality.fine_detail(before, everywhere), quality.fine_detail(after, everywhere)
        return Verdict(
            ramp(new / max(old, 0.05), (1, 1.1, 1.25, 1.5, 2)), f"fine detail {old:.2f} before, {new:.2f} after (L)"
        )
    return Verdict(None, f"no rule for degradation {degradation!r}")


def background_changed(evidence: Evidence, thing: np.ndarray | None) -> Verdict:
    """A background edit: the object kept (PSNR in its eroded mask), the surround changed."""
    if thing is None:
        return Verdict(None, "the object's mask is unknown, so object and background cannot be told apart")
    margin = disk(max(2, round(0.008 * max(evidence.shape))))
    core = cv2.erode(thing.astype(np.uint8), margin).astype(bool)
    around = ~cv2.dilate(thing.astype(np.uint8), margin).astype(bool)
    if not core.any() or not around.any():
        return Verdict(None, "the object is too thin, or fills the image")
    kept = quality.psnr(evidence.source, evidence.edited, core) or 0.0
    share = float(evidence.changed[around].mean())
    return worst(
        [
            Verdict(
                ramp(kept, (17, 21, 25, 30, 36)),
                f"object PSNR {kept:.1f} dB, {100 * share:.0f} % of the surround changed",
            ),
            Verdict(ramp(share, (0.05, 0.2, 0.4, 0.55, 0.7)), f"{100 * share:.0f} % of the surround changed"),
        ]
    )


# The target box -------------------------------------------------------------------------------------------------------


def local(evidence: Evidence, task: str | None, box: Box, params: Mapping[str, Any]) -> Verdict:
    """Was the asked-for change made in the box? By task; a task without a rule of its own gets the generic one."""
    pixels = evidence.edited_pixels(box)
    share = float(pixels.sum() / max(1.0, boxes.area(box)))
    if share < 0.005:
        return Verdict(1.0, f"nothing changed in the box ({100 * share:.1f} % of it)")
    if task == "recolor" and "rgb" in params:
        return recoloured(evidence, pixels, params["rgb"])
    if task in ("remove", "add"):
        return blended(evidence, pixels, box, removed=task == "remove")
    if task == "text":
        return lettering(evidence, pixels, box)
    return changed_enough(evidence, pixels, box)


def recoloured(evidence: Evidence, pixels: np.ndarray, rgb: Sequence[int]) -> Verdict:
    """How much of the way to the asked colour the changed pixels went: in (a*, b*), with half of L.

    The way is 1 - distance after / distance before, of the pixels' median colour: scores at 0.05, 0.2, 0.35, 0.5, 0.65.
    """
    target = to_lab(np.array([[rgb]], np.uint8))[0, 0]
    weights = np.array([0.5, 1.0, 1.0])
    distances = [
        float(np.linalg.norm((np.median(lab[pixels], axis=0) - target) * weights))
        for lab in (evidence.before, evidence.after)
    ]
    way = 1 - distances[1] / max(distances[0], 1.0)
    return Verdict(
        ramp(way, (0.05, 0.2, 0.35, 0.5, 0.65)),
        f"colour {distances[0]:.0f} from the asked one before, {distances[1]:.0f} after",
    )


def blended(evidence: Evidence, pixels: np.ndarray, box: Box, removed: bool) -> Verdict:
    """An object went (or came): the region is more (or less) like its surround than before.

    Likeness is the distance of the colour histograms of the region and of a ring around it (`_contrast`, 0..1). An
    object whose colours its surround shares cannot be judged by that: then only the strength of the change is scored.
    """
    region = fill(pixels, box)
    ring = _ring(region, evidence.changed)
    if ring.sum() < 64:
        return Verdict(None, "no surround left to compare with")
    with_it, without = (evidence.before, evidence.after) if removed else (evidence.after, evidence.before)
    there, gone = _contrast(with_it, region, ring), _contrast(without, region, ring)
    if there < 0.25 and gone < 0.4:
        strong = changed_enough(evidence, pixels, box)
        return Verdict(strong.score, f"the object has its surround's colours (contrast {there:.2f}); {strong.reason}")
    order = f"{there:.2f} before, {gone:.2f} after" if removed else f"{gone:.2f} before, {there:.2f} after"
    return Verdict(ramp(1 - gone / max(there, 0.05), (-0.1, 0.0, 0.1, 0.2, 0.35)), f"contrast to the surround {order}")


def lettering(evidence: Evidence, pixels: np.ndarray, box: Box) -> Verdict:
    """Text was drawn: the change is strong, and the changed pixels of the edited image hold edges."""
    light = evidence.after[..., 0]
    gradient = cv2.morphologyEx(light, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    density = float((gradient[pixels] > 12).mean())
    strong = changed_enough(evidence, pixels, box)
    edges = Verdict(
        ramp(density, (0.02, 0.05, 0.1, 0.15, 0.2)), f"{100 * density:.0f} % of the changed pixels hold edges"
    )
    return worst([strong, edges])


def changed_enough(evidence: Evidence, pixels: np.ndarray, box: Box) -> Verdict:
    """The change can be seen: mean perceptual difference (2, 4, 6, 9, 13) and share of the box (1, 3, 6, 10, 15 %)."""
    strength = float(evidence.distance[pixels].mean())
    share = float(pixels.sum() / max(1.0, boxes.area(box)))
    score = min(ramp(strength, (2, 4, 6, 9, 13)), ramp(share, (0.01, 0.03, 0.06, 0.1, 0.15)))
    return Verdict(score, f"{100 * share:.0f} % of the box changed by {strength:.1f} (CIE76) on average")


def fill(pixels: np.ndarray, box: Box) -> np.ndarray:
    """The changed pixels with gaps closed, inside the box."""
    reach = max(1, round(0.02 * max(box[2] - box[0], box[3] - box[1])))
    closed = cv2.morphologyEx(pixels.astype(np.uint8), cv2.MORPH_CLOSE, disk(reach)).astype(bool)
    return closed & boxes.to_mask([box], *pixels.shape)


def _ring(region: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """The unchanged surround: as wide as a third of the region's size."""
    reach = int(np.clip(0.33 * np.sqrt(region.sum()), 4, 60))
    near = cv2.dilate(region.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)).astype(bool)
    apart = cv2.dilate((changed | region).astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    return near & ~apart


def _contrast(lab: np.ndarray, region: np.ndarray, ring: np.ndarray) -> float:
    """Total variation distance of the smoothed Lab histograms of region and ring: 0 alike .. 1 disjoint."""
    histograms = []
    for part in (region, ring):
        values = np.ascontiguousarray(lab[part]).reshape(-1, 1, 3)
        ranges = [0, 100, -80, 80, -80, 80]
        counts = cv2.calcHist([values], [0, 1, 2], None, [10, 16, 16], ranges)
        counts = cv2.GaussianBlur(counts.reshape(10, 256), (1, 3), 0.7).reshape(10, 16, 16)
        counts = cv2.GaussianBlur(counts.reshape(160, 16), (3, 1), 0.7).reshape(10, 16, 16)
        counts = cv2.GaussianBlur(counts.transpose(1, 0, 2).reshape(16, 160), (3, 1), 0.7)
        histograms.append(counts / max(float(counts.sum()), 1.0))
    return float(np.abs(histograms[0] - histograms[1]).sum() / 2)


def _around_curve(lab: np.ndarray) -> float:
    """Median distance of colours (a*, b*) from the image's own mean colour at each lightness."""
    bins = np.clip(lab[..., 0] / 5, 0, 19).astype(int).ravel()
    colours = lab[..., 1:].reshape(-1, 2)
    count = np.maximum(np.bincount(bins, minlength=20), 1)
    means = np.stack([np.bincount(bins, weights=colours[:, axis], minlength=20) / count for axis in (0, 1)], axis=1)
    return float(np.median(np.linalg.norm(colours - means[bins], axis=1)))
