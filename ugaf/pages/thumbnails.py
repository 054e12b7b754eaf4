"""Thumbnails for one page: each distinct image once, as WebP, all together within a budget of bytes."""

from __future__ import annotations

import base64
import hashlib
import os
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ugaf.imaging import images

BUDGET = 12_000_000
"""Bytes of all thumbnails together, before base64 adds a third."""

SIDES = (640, 512, 400, 320, 280, 240, 200, 160, 120, 96)
QUALITY = 76
THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class Thumbnail:
    """A WebP thumbnail, and the size in pixels of the image that it was made from (after EXIF rotation)."""

    data: bytes
    width: int
    height: int

    @property
    def url(self) -> str:
        return "data:image/webp;base64," + base64.b64encode(self.data).decode("ascii")


def side_for(count: int, budget: int = BUDGET) -> int:
    """The longest side, in pixels, at which `count` photographs are expected to fit the budget.

    Photographs as WebP of quality 76 take about 1.83 * side ** 1.5 bytes (10 kB at 320, measured on photographs).
    """
    return next((side for side in SIDES if count * 1.83 * side**1.5 <= budget), SIDES[-1])


class Thumbnails:
    """Thumbnails by content: the same bytes are decoded and embedded once, however many rows show them."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.made: dict[str, Thumbnail] = {}
        self.failed: dict[str, str] = {}

    def add(self, blobs: Iterable[bytes]) -> None:
        """Make the thumbnails of these encoded images; what cannot be decoded is in `failed` with its reason."""
        todo = {key(blob): blob for blob in blobs}
        todo = {name: blob for name, blob in todo.items() if name not in self.made and name not in self.failed}
        # `images.decode` changes the warning filters while it runs; in threads only the outermost restore is sure.
        with warnings.catch_warnings(), ThreadPoolExecutor(THREADS) as pool:
            for name, result in zip(todo, pool.map(self._make, todo.values()), strict=True):
                if isinstance(result, Thumbnail):
                    self.made[name] = result
                else:
                    self.failed[name] = result

    def _make(self, blob: bytes) -> Thumbnail | str:
        try:
            info = images.probe(blob)
            return Thumbnail(_encode(blob, self.side), info.width, info.height)
        except Exception as error:
            # One image that a codec cannot take must not cost the report; the page shows this text in its place.
            return f"{type(error).__name__}: {error}"

    def shrink(self, budget: int = BUDGET) -> None:
        """Make all of them smaller, step by step, until together they fit the budget (or the smallest side is met)."""
        while sum(len(thumbnail.data) for thumbnail in self.made.values()) > budget:
            smaller = [side for side in SIDES if side < self.side]
            if not smaller:
                return
            self.side = smaller[0]
            for name, old in self.made.items():
                self.made[name] = Thumbnail(_encode(old.data, self.side), old.width, old.height)


def key(blob: bytes) -> str:
    """A short name of these bytes."""
    return hashlib.blake2b(blob, digest_size=9).hexdigest()


def _encode(blob: bytes, side: int) -> bytes:
    return images.encode(images.decode(blob, side), "webp", QUALITY)
