"""Is the edit an edit? Pairs whose two pictures are too much alike, and what is needed to find the same pair again.

FireRed-Image-Edit's second level of deduplication is about pairs: source and edited too alike, or a pair that is there
twice. The first is decided here; the second by `refinement.same_pairs`, from this stage's signature.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from ugaf.imaging.registration import Registration, reduce, register
from ugaf.measures import likeness
from ugaf.measures.change import SIDE
from ugaf.stage import Column, Outcome, Row, Stage


class Likeness(Stage):
    """Writes how alike the pair's pictures are, the pair's signature, and the side by which copies are compared.

    Pictures of different sizes are registered first; those of one size too, where `refinement.change_mask` stands
    before this stage and found them displaced.
    """

    reads = ("image", "edited_image")
    optional_reads = ("source_image", "shift_x", "shift_y")
    writes: ClassVar = {
        "pair_psnr": Column(pa.float32(), "peak signal-to-noise ratio in dB, all channels, at most 100"),
        "pair_ssim": Column(pa.float32(), "structural similarity of luma, -1..1", range=(-1, 1)),
        "pair_likeness": Column(pa.float32(), "likeness of source and edited, dB, at most 100"),
        "pair_side": Column(pa.int32(), "shorter side of the smaller picture, px"),
        "pair_signature": Column(pa.binary(), "1,040 bytes: what the pair shows and what it changes"),
    }
    keep: ClassVar[Mapping[str, Mapping[str, Any]]] = {"pair_likeness": {"max": 30.0}}

    def process(self, row: Row) -> Outcome:
        source, edited = row.source(), row.edited()
        side = min(*source.shape[:2], *edited.shape[:2])
        shift = (row.get("shift_x") or 0.0, row.get("shift_y") or 0.0)
        # At the resolution of the smaller one: what the larger one has beyond it is no edit.
        source, found = on_one_grid(source, edited, min(SIDE, max(source.shape), max(edited.shape)), shift)
        alike = likeness.likeness(source, found.edited, found.valid)
        # What lies outside of the edited picture is not known to have changed.
        edited = np.where(found.valid[..., None], found.edited, source)
        return {
            "pair_psnr": alike.psnr,
            "pair_ssim": alike.ssim,
            "pair_likeness": alike.least,
            "pair_side": side,
            "pair_signature": likeness.pair_signature(source, edited),
        }


def on_one_grid(
    source: np.ndarray, edited: np.ndarray, side: int, shift: tuple[float, float]
) -> tuple[np.ndarray, Registration]:
    """The source with its longer side reduced to `side`, and the edited picture on its grid; RGB uint8.

    shift: displacement (x, y) in pixels of the source. Pictures of one size without any stay as they are.
    """
    small = reduce(source, side)
    if source.shape == edited.shape and shift == (0.0, 0.0):
        return small, Registration(reduce(edited, side), np.ones(small.shape[:2], bool))
    factor = small.shape[1] / source.shape[1]
    return small, register(small, reduce(edited, side), (shift[0] * factor, shift[1] * factor))
