"""What a detector is: photographs in, boxes out, best first.

The stage `annotation.detect` knows detectors only by this interface; the configuration names the implementation
(`detector: {engine: proposals}`, see `ugaf.stage.engines`). An implementation is a class with a nested `Settings`
model, built as `cls(settings)`, so that its options are checked before a run starts.

A detector gets queries, not pixels: one that looks boxes up in a table never decodes a photograph, and one that is told
what to look for finds it beside the photograph.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ugaf.base.failure import Failure
from ugaf.imaging.boxes import Box


@dataclass(frozen=True, eq=False)
class Detection:
    """One object found in an image.

    Attributes:
        box: absolute pixels (x1, y1, x2, y2), half-open, inside the image, not empty.
        label: the class name, or None from a class-agnostic detector.
        score: 0..1, higher is surer; None from a detector that gives none. Its calibration is the detector's own: a
            threshold belongs to one detector.
        mask: bool (y2 - y1, x2 - x1), True on the object's pixels; None where the detector has no mask.
    """

    box: Box
    label: str | None
    score: float | None
    mask: np.ndarray | None


@dataclass(frozen=True, eq=False)
class DetectQuery:
    """A photograph in which objects are wanted.

    Attributes:
        id: the row's id.
        size: (width, height) in pixels, upright.
        load: gives the photograph, RGB uint8 (height, width, 3), read-only. Raises ImageError if it cannot be decoded.
        sources: the places that it came from; the columns below are empty unless the engine's `needs` names them.
        caption: the user's caption, or None.
        vocabulary: what to look for, from the column that the engine's setting `vocabulary_column` names; () if none.
    """

    id: str
    size: tuple[int, int]
    load: Callable[[], np.ndarray] = field(repr=False)
    sources: tuple[str, ...] = ()
    caption: str | None = None
    vocabulary: tuple[str, ...] = ()

    def photo(self) -> np.ndarray:
        """The photograph, RGB uint8 (height, width, 3); decoded when it is asked for."""
        return self.load()

    @classmethod
    def of(cls, photo: np.ndarray, **known: Any) -> DetectQuery:
        """A query for pixels that are at hand, RGB uint8 (height, width, 3)."""
        return cls(**{"id": "", "size": (photo.shape[1], photo.shape[0]), "load": lambda: photo, **known})


class Detector(Protocol):
    """Finds objects in a batch of photographs.

    Attributes:
        name: the engine's name as it is written into the rows.
        version: raised when a change of code changes the result; part of the stage's fingerprint.

    It may have further attributes, which the stage looks at:
        reads_image: False if it never calls `DetectQuery.photo`, so that photographs need not be read (default True).
        labels: False if it is class-agnostic, so that class filters are refused (default True).
        class_names: all labels that it can give, where they are known once it is built.
    """

    name: str
    version: int

    def detect(self, queries: Sequence[DetectQuery]) -> list[list[Detection] | Failure]:
        """For each query, in order: its detections, best first, or why there are none to be had.

        A query that cannot be answered fails alone. What makes the whole batch raise costs a second try, one by one.
        """
        ...


def phrases(value: Any) -> tuple[str, ...]:
    """What to look for, from a list of strings or from text separated by commas, semicolons, full stops or lines.

    Lower case with single spaces, as open-vocabulary models are trained; each phrase once, in order. Raises TypeError
    for anything else.
    """
    if value is None:
        return ()
    if isinstance(value, str):
        value = re.split(r"[,;\n]|\.(?=\s|$)", value)
    if not isinstance(value, Sequence | np.ndarray) or not all(isinstance(item, str) for item in value):
        raise TypeError(f"expected phrases as a text or a list of texts, got {value!r:.100}")
    found = (" ".join(item.lower().split()).strip(" .") for item in value)
    return tuple(dict.fromkeys(phrase for phrase in found if phrase))


def ranked(detections: Iterable[Detection]) -> list[Detection]:
    """Best first; those without a score keep their order, after the others."""
    return sorted(detections, key=lambda found: -1.0 if found.score is None else found.score, reverse=True)


def pixel_box(corners: Sequence[float], width: int, height: int) -> Box | None:
    """A model's corners (x1, y1, x2, y2) in pixels as a box: to the nearest pixels, inside the image; None if that is
    empty. Raises ValueError for what is not a number."""
    if not np.isfinite(corners).all():
        raise ValueError(f"the detector gave a box that is not a number: {list(corners)}")
    x1, y1, x2, y2 = (round(float(value)) for value in corners)
    x1, y1, x2, y2 = max(0, x1), max(0, y1), min(width, x2), min(height, y2)
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def detections_of(
    corners: np.ndarray, scores: np.ndarray, labels: Sequence[str | None], size: tuple[int, int]
) -> list[Detection]:
    """A model's arrays as detections, best first: corners (n, 4) in pixels of the image, scores (n,), labels (n).

    Boxes that are empty inside the image are left out. Raises ValueError for boxes or scores that are not numbers (half
    precision may overflow): such an answer is no answer.
    """
    if not np.isfinite(scores).all():
        raise ValueError("the detector gave a score that is not a number")
    found = []
    for box, score, label in zip(corners, scores, labels, strict=True):
        pixels = pixel_box(box, *size)
        if pixels is not None:
            found.append(Detection(pixels, label, min(max(float(score), 0.0), 1.0), None))
    return ranked(found)
