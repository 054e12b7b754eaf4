"""The embedded scorer: measurements against the pair of the shards, so that post-training runs without a server.

It needs pairs whose target is right, as template edits are. It cannot tell a good edit from a bad one where several are
right (any dog for "add a dog"): use a judge for those.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ugaf.measures import quality
from ugaf.stage import Failure
from ugaf.trainer.rl.rewards import Case, Part, Scores, only

WORST, BEST = 5.0, 45.0
"""PSNR in dB that is worth 0 and 1: unrelated pictures, and pictures that look the same."""

GLANCE = 128
"""Longer side in pixels to which the whole picture is reduced, at most, for its one score."""

NODES = 5
"""Values of each channel that the histogram of the whole picture counts at."""


class Measures:
    """region: PSNR inside the boxes against the target edit, from WORST to BEST linear in 0..1.

    background: mean structural similarity (SSIM) to the source outside the boxes, negative ones 0.

    whole: how much of the colours that the edit brings in the picture shows, wherever in it. Of the colour histograms
    of source and target, those colours are where the target's is greater; the score is the share of that gain which
    the output's has, too. As a judge of the whole picture does, it tells whether the edit was made; it knows no box,
    and does not see what else became a little different.
    """

    def score(self, case: Case, parts: Sequence[Part]) -> list[Scores | Failure]:
        """Of each output; never a Failure."""
        ways = {"region": self._region, "background": self._background, "whole": self._whole}
        return [{part: ways[part](case, output) for part in parts} for output in case.outputs]

    def _region(self, case: Case, output: np.ndarray) -> float:
        return ramp(quality.psnr(case.target, output, case.roi_mask))

    def _background(self, case: Case, output: np.ndarray) -> float:
        # Its windows reach over the border of the boxes, where an edit is to be seen.
        before, after = (only(image, case.background_mask) for image in (case.source, output))
        found = quality.ssim(before, after, case.background_mask)
        return 1.0 if found is None else max(0.0, found)

    def _whole(self, case: Case, output: np.ndarray) -> float:
        source, target, seen = (histogram(glance(image)) for image in (case.source, case.target, output))
        gain = np.maximum(target - source, 0)
        if gain.sum() < 1e-9:
            return float(np.minimum(seen, target).sum())
        return float(np.minimum(np.maximum(seen - source, 0), gain).sum() / gain.sum())


def ramp(psnr: float | None) -> float:
    """0..1 of a PSNR in dB, linear from WORST to BEST; 1 for no pixels at all."""
    return 1.0 if psnr is None else float(np.clip((psnr - WORST) / (BEST - WORST), 0, 1))


def glance(image: np.ndarray) -> np.ndarray:
    """The picture with its longer side reduced to GLANCE pixels, by area, if it is longer: RGB uint8."""
    height, width = image.shape[:2]
    scale = GLANCE / max(height, width)
    if scale >= 1:
        return image
    return cv2.resize(
        image, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA
    )


def histogram(image: np.ndarray) -> np.ndarray:
    """Colours of an RGB uint8 image: float64 (NODES^3,), sum 1.

    A pixel counts at the eight nodes around its colour, by trilinear weights: colours that are nearly the same count
    nearly alike, and there are no borders of bins to jump over.
    """
    at = image.reshape(-1, 3) * ((NODES - 1) / 255)
    low = np.minimum(at.astype(int), NODES - 2)
    share = at - low
    counts = np.zeros(NODES**3)
    for corner in np.ndindex(2, 2, 2):
        weights = np.prod(np.where(corner, share, 1 - share), axis=1)
        places = (low + corner) @ (NODES**2, NODES, 1)
        counts += np.bincount(places, weights, NODES**3)
    return counts / len(at)
