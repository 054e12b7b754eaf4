"""The box of a benchmark pair, from the difference of its two pictures (FineEdit-1k; arXiv 2604.10954).

The paper's steps: pixel-wise difference, filtering, erosion, dilation, binary mask, largest rectangular region. It
publishes no constants; those here are ours. This is not `ugaf.measures.change`, which finds the change in pairs that a
model redrew: a benchmark's box must follow from the published protocol, and its pairs are aligned.
"""

from __future__ import annotations

import cv2
import numpy as np

from ugaf.imaging import boxes
from ugaf.imaging.boxes import Box
from ugaf.stage import RowError

SIDE = 1024
"""Longer side, in pixels, at which the pair is compared; constants below are pixels there."""

STEP = 25
"""A pixel differs where a channel does by more, of 255, after the median filter."""

MEDIAN = 5
ERODE = 3
DILATE = 15


def difference_box(source: np.ndarray, edited: np.ndarray) -> Box:
    """The box of the largest difference, in pixels of the source.

    Largest absolute difference of the channels, median filter of 5 pixels, threshold, erosion by 3 x 3, dilation by
    15 x 15, 8-connected components; of the component with the most pixels the bounding rectangle, less what the
    dilation spread it.

    Args:
        source, edited: RGB uint8; an edited picture of another size is resized.
    Raises:
        RowError: the pictures do not differ, so that there is no box.
    """
    height, width = source.shape[:2]
    factor = min(1.0, SIDE / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in (source, edited)]
    step = cv2.medianBlur(cv2.absdiff(*small).max(axis=2), MEDIAN)
    core = cv2.erode((step > STEP).astype(np.uint8), np.ones((ERODE, ERODE), np.uint8))
    near = cv2.dilate(core, np.ones((DILATE, DILATE), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(near, connectivity=8)
    if count < 2:
        raise RowError(f"source and edited picture of the pair do not differ by more than {STEP} of 255: no box")
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    # The erosion took a rim of one pixel off, which the box is given back.
    found = boxes.of_mask(cv2.dilate(core, np.ones((ERODE, ERODE), np.uint8)).astype(bool) & (labels == largest))
    assert found is not None
    across, down = width / size[0], height / size[1]
    return boxes.clip((found[0] * across, found[1] * down, found[2] * across, found[3] * down), width, height)
