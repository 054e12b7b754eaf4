"""How alike are the two pictures of a pair, and is a pair the same as another one?

**Within a pair.** An editor may give its source back: re-encoded, a shade brighter, and otherwise as it was. PSNR alone
does not tell such an identity edit from a small one: a word in a corner changes a thousandth of the pixels, and JPEG
all of them a little. But what compression and noise do to single pixels averages out over a few of them, and what an
edit does stays. So the pair is also compared by the means of windows, and the window that changed most decides; except
for edits of fine detail all over (a denoised photograph), which PSNR sees. The lower of the two is the likeness.

**Between pairs.** Two pairs are the same if their sources are near-duplicates and if the same was changed. Different
edits of one photograph share the source, so all depends on the change: its low frequencies in luma and both colour
differences, taken in the box that it fills, so that a word is seen as sharply as a sky, and compared with their
strength: a cosine would take a paler recolour for the same one.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from ugaf.measures import quality, signatures

Floats = signatures.Floats
Packed = NDArray[np.uint8]

WINDOW = 16
"""Side in pixels of the windows whose means are compared: two JPEG blocks."""

SIDE = signatures.SIDE
PLANES = 3
"""Luma and two colour differences (ITU-R BT.601, full range), in levels of 0..255."""
CODES = PLANES * SIDE * SIDE
BYTES = signatures.BYTES + 8 + CODES
"""A pair's signature: that of its source's luma (`ugaf.measures.signatures`), the change's box, its peak and its
coefficients."""
CELLS = 64
"""Edges of a change's box are in so many parts of the picture's height and width."""
LEAST_CELLS = 8
"""A box is at least so many cells high and wide."""
SHARE = 0.25
"""A cell belongs to the change if it changed by this share of what the most changed cell did."""
OVERLAP = 0.75
"""Least part of the height and width of either box that both have in common, if the changes are to be compared."""
COMPARED = 14
"""Half waves along each axis that are compared: a part of a box is not known up to the 15th."""
_LEVELS = 127


@dataclass(frozen=True)
class Likeness:
    """How alike two pictures on one grid are, over the whole canvas.

    psnr: dB, at most `quality.PSNR_CAP`. ssim: of luma, -1..1. local: PSNR in dB of the window that changed most, by
    its mean colour; at most `quality.PSNR_CAP`.
    """

    psnr: float
    ssim: float
    local: float

    @property
    def least(self) -> float:
        """The lower of `psnr` and `local`, dB."""
        return min(self.psnr, self.local)


def likeness(source: np.ndarray, edited: np.ndarray, region: np.ndarray | None = None) -> Likeness:
    """How alike two RGB uint8 pictures (height, width, 3) of one size are.

    region: bool (height, width), what is compared; default: all. Raises ValueError where there is nothing to compare.
    """
    region = np.ones(source.shape[:2], bool) if region is None else region
    if source.shape != edited.shape or not region.any():
        raise ValueError(f"pictures of one size that show the same are compared, not {source.shape} and {edited.shape}")
    psnr, ssim = quality.psnr(source, edited, region), quality.ssim(source, edited, region)
    return Likeness(float(psnr or 0.0), float(ssim or 0.0), local_psnr(source, edited, region))


def local_psnr(source: np.ndarray, edited: np.ndarray, region: np.ndarray | None = None) -> float:
    """PSNR in dB, at most `quality.PSNR_CAP`, of the WINDOW x WINDOW pixels whose mean colour changed most.

    Every position of the window counts; beyond the border the picture's edge is repeated, outside of the region nothing
    changed. A window's change is the root mean square over R, G, B of the change of its means.
    """
    step = edited.astype(np.float32) - source
    if region is not None:
        step[~region] = 0
    means = cv2.blur(step, (WINDOW, WINDOW), borderType=cv2.BORDER_REPLICATE)
    error = float(np.square(means).mean(axis=2).max())
    return quality.PSNR_CAP if error == 0 else min(quality.PSNR_CAP, float(10 * np.log10(255**2 / error)))


def pair_signature(source: np.ndarray, edited: np.ndarray) -> bytes:
    """BYTES bytes that say what a pair shows and what it changes, of RGB uint8 (height, width, 3) on one grid.

    The source's signature; four edges of the box (top, bottom, left, right; uint8, in CELLS); the largest coefficient
    as little-endian float32; int8 codes of the coefficients, plane by plane as `signatures` orders them, on a
    square-root scale. A coefficient is the mean over the box of the change (levels) times the two cosines.
    """
    before, after = (cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2YCrCb) for image in (source, edited))
    change = after.astype(np.float32) - before
    box = change_box(change)
    rows, columns = _basis(change.shape[0], *box[:2]), _basis(change.shape[1], *box[2:])
    waves = np.stack([rows @ change[..., plane] @ columns.T for plane in range(PLANES)]).ravel()
    peak = float(np.abs(waves).max())
    scaled = np.abs(waves) / peak if peak else waves
    codes = np.rint(_LEVELS * np.sign(waves) * np.sqrt(scaled)).astype(np.int8)
    seen = signatures.signature(np.ascontiguousarray(before[..., 0]))
    return seen + struct.pack("<4Bf", *box, peak) + codes.tobytes()


def change_box(change: np.ndarray) -> tuple[int, int, int, int]:
    """Where a change float32 (height, width, planes) is: top, bottom, left, right in CELLS; the whole if nothing is.

    The smallest box around all cells that changed by SHARE of the most changed one, averaged with their neighbours so
    that compression noise does not decide, and one more cell on each side.
    """
    cells = cv2.resize(change, (CELLS, CELLS), interpolation=cv2.INTER_AREA)
    strength = np.linalg.norm(cv2.blur(cells, (3, 3), borderType=cv2.BORDER_REPLICATE), axis=2)
    if not strength.max():
        return 0, CELLS, 0, CELLS
    there = strength >= SHARE * strength.max()
    return *_span(there.any(axis=1)), *_span(there.any(axis=0))


def _span(there: np.ndarray) -> tuple[int, int]:
    places = np.flatnonzero(there)
    first, last = int(places[0]) - 1, int(places[-1]) + 2
    missing = max(0, LEAST_CELLS - (last - first))
    first, last = first - missing // 2, last + missing - missing // 2
    return max(0, first), min(CELLS, last)


def same_change(first: Packed, second: Packed) -> Floats:
    """How much the same was changed, float32 (n), -1..1, in pairs with signatures uint8 (n, BYTES) each.

    The concordance of the changes where both boxes are; 0 where the boxes differ too much, where nothing was changed or
    where a signature is damaged.
    """
    out = np.zeros(len(first), np.float32)
    (box, waves), (other_box, other_waves) = _unpack(first), _unpack(second)
    common = np.stack([np.maximum(box, other_box), np.minimum(box, other_box)], axis=2)
    # Starts are the larger, ends the smaller of the two.
    common = np.stack([common[:, 0, 0], common[:, 1, 1], common[:, 2, 0], common[:, 3, 1]], axis=1)
    comparable = _covers(common, box) & _covers(common, other_box)
    equal = comparable & (box == other_box).all(axis=1)
    out[equal] = concordance(_compared(waves[equal]), _compared(other_waves[equal]))
    for place in np.flatnonzero(comparable & ~equal):
        parts = [_part(w[place], b[place], common[place]) for w, b in ((waves, box), (other_waves, other_box))]
        out[place] = concordance(*(_compared(part[None]) for part in parts))[0]
    return out


def concordance(first: Floats, second: Floats) -> Floats:
    """Likeness float32 (n) of changes (n, c) row by row, -1..1: 2 <a, b> / (<a, a> + <b, b>).

    1 only where they are equal, in strength too (a cosine is blind to it); 0 where nothing changed in both. It is Lin's
    coefficient of concordance ("A concordance correlation coefficient to evaluate reproducibility", 1989) about zero.
    """
    products = np.einsum("nc,nc->n", first, second)
    squares = np.einsum("nc,nc->n", first, first) + np.einsum("nc,nc->n", second, second)
    return (2 * products / np.where(squares > 0, squares, 1)).astype(np.float32)


def unpack(packed: Sequence[bytes]) -> Packed:
    """Pair signatures as an array uint8 (n, BYTES). Raises ValueError for what is none."""
    for number, one in enumerate(packed):
        if one is None or len(one) != BYTES or not signatures.valid(one[: signatures.BYTES]):
            found = "null" if one is None else f"{len(one)} bytes"
            raise ValueError(f"pair signature {number} is damaged: {found}, expected {BYTES} bytes")
    return np.frombuffer(b"".join(packed), np.uint8).reshape(-1, BYTES)


def _unpack(packed: Packed) -> tuple[NDArray[np.int64], Floats]:
    """Boxes (n, 4), and coefficients (n, PLANES, 16, 16); zeros where the signature is damaged."""
    packed = np.ascontiguousarray(packed[:, signatures.BYTES :])
    box = packed[:, :4].astype(np.int64)
    peak = packed[:, 4:8].copy().view("<f4").astype(np.float32)
    codes = packed[:, 8:].view(np.int8).astype(np.float32)
    whole = (box[:, 0::2] < box[:, 1::2]).all(axis=1) & (box <= CELLS).all(axis=1) & np.isfinite(peak[:, 0])
    waves = codes * np.abs(codes) * np.where(whole[:, None], peak, 0) / _LEVELS**2
    return box, waves.reshape(-1, PLANES, SIDE, SIDE)


def _covers(common: NDArray[np.int64], box: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether (n,) the common parts are at least OVERLAP of the boxes, along both axes."""
    sides = box[:, 1::2] - box[:, 0::2]
    enough = (common[:, 1::2] - common[:, 0::2] >= OVERLAP * sides) & (sides > 0)
    return np.asarray(enough.all(axis=1))


def _compared(waves: Floats) -> Floats:
    return waves[..., :COMPARED, :COMPARED].reshape(len(waves), PLANES * COMPARED**2)


def _part(waves: Floats, box: np.ndarray, part: np.ndarray) -> Floats:
    """Coefficients (PLANES, 16, 16) of a part of a box."""
    rows, columns = (_window(*map(int, (*box[axis], *part[axis]))) for axis in (slice(0, 2), slice(2, 4)))
    return rows @ waves @ columns.T


@lru_cache(maxsize=4096)
def _window(start: int, end: int, first: int, last: int) -> Floats:
    side = end - start
    return signatures.window((first - start) / side, (last - start) / side)


def _basis(length: int, start: int, end: int) -> Floats:
    """float32 (16, length): for each frequency the weights of the samples of a line, in its part start..end CELLS."""
    edges = np.arange(length + 1) / length * CELLS
    share = np.clip(np.minimum(edges[1:], end) - np.maximum(edges[:-1], start), 0, None) / (end - start)
    place = (((edges[1:] + edges[:-1]) / 2 - start) / (end - start)).clip(0, 1)
    frequency = np.arange(SIDE)[:, None]
    waves = np.where(frequency == 0, 1.0, np.sqrt(2.0)) * np.cos(np.pi * frequency * place)
    return (waves * share).astype(np.float32)
