"""Frontal faces in photographs, found without any weights of our own: whose face it is, nobody is told."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from ugaf.imaging import boxes
from ugaf.imaging.boxes import Box

REMEMBERED = 256
"""Photographs whose faces are kept, for their other edits."""


class FaceFinder:
    """Frontal faces by Viola and Jones's cascade (CVPR 2001), as OpenCV ships it, confirmed by the eyes.

    A cascade alone calls a wheel's or a fur's pattern a face now and then; a second one has to agree, and to see eyes.
    Profiles and faces under about 4 % of the image are missed: this is a filter, not a guarantee.
    """

    def __init__(self) -> None:
        self._first = _cascade("haarcascade_frontalface_alt2.xml")
        self._second = _cascade("haarcascade_frontalface_default.xml")
        self._eye = _cascade("haarcascade_eye.xml")
        self._eye_behind_glass = _cascade("haarcascade_eye_tree_eyeglasses.xml")

    def find(self, photo: np.ndarray) -> list[Box]:
        """Faces in RGB uint8 (h, w, 3): boxes in its pixels, from the upper left."""
        grey = cv2.equalizeHist(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY))
        least = max(20, round(0.035 * max(grey.shape)))
        found = self._first.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=4, minSize=(least, least))
        faces = [(int(x), int(y), int(x + w), int(y + h)) for x, y, w, h in found]
        return sorted(face for face in faces if self._agrees(grey, face))

    def _agrees(self, grey: np.ndarray, face: Box) -> bool:
        around = boxes.grow(face, 0.25, grey.shape[1], grey.shape[0])
        crop = np.ascontiguousarray(boxes.crop(grey, around))
        if min(crop.shape) < 160:
            crop = cv2.resize(crop, (160, 160), interpolation=cv2.INTER_CUBIC)
        side = int(0.36 * min(crop.shape))
        if not len(self._second.detectMultiScale(crop, scaleFactor=1.05, minNeighbors=2, minSize=(side, side))):
            return False
        upper = np.ascontiguousarray(crop[: int(0.62 * crop.shape[0])])
        least = (crop.shape[0] // 12,) * 2
        if len(self._eye_behind_glass.detectMultiScale(upper, scaleFactor=1.05, minNeighbors=3, minSize=least)):
            return True
        return len(self._eye.detectMultiScale(upper, scaleFactor=1.05, minNeighbors=3, minSize=least)) >= 2


class Faces:
    """Faces by photograph, looked for once for all its edits. Safe to use from several threads.

    find: RGB uint8 (h, w, 3) -> boxes in its pixels; by default a FaceFinder's.
    """

    def __init__(self, find: Callable[[np.ndarray], list[Box]] | None = None) -> None:
        self._find = find or FaceFinder().find
        self._found: OrderedDict[str, list[Box]] = OrderedDict()
        # Held while faces are looked for, too: a cascade must not be used from two threads.
        self._lock = threading.Lock()

    def of(self, id: str, photo: np.ndarray, size: tuple[int, int]) -> list[Box]:
        """In pixels of the full image. id: of the photograph. photo: any size of it. size: its full (width, height)."""
        with self._lock:
            if id not in self._found:
                scale = size[0] / photo.shape[1]
                found = [boxes.clip([value * scale for value in face], *size) for face in self._find(photo)]
                self._found[id] = [face for face in found if boxes.area(face)]
                while len(self._found) > REMEMBERED:
                    self._found.popitem(last=False)
            return self._found[id]


def _cascade(name: str) -> cv2.CascadeClassifier:
    path = Path(cv2.__file__).parent / "data" / name
    cascade = cv2.CascadeClassifier(str(path))
    if cascade.empty():
        raise RuntimeError(f"OpenCV's face cascade {path} cannot be read: install opencv-python-headless again")
    return cascade
