"""A photograph in 264 bytes: the low frequencies of its luma, from which everything that deduplication asks follows.

The signature holds the 16 x 16 lowest DCT-II coefficients of the luma, squashed to a square. That is the idea of pHash
(Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010), with the numbers kept instead of
their signs alone. All that search and comparison need are linear maps of these numbers, without a look at the pixels:
the hash is their signs, a mirrored photograph changes the sign of every other column, a crop is one small matrix for
each axis, the correlation of two photographs is a cosine, and their low-passed copies can be drawn again.

Conventions: coefficients are float32 (n, 256), row by row (vertical frequency first), in grey levels: for the luma
g(y, x) on the unit square, c[v * 16 + h] is the mean of g * f_v(y) * f_h(x), where f_0 = 1 and f_k(t) = sqrt(2) cos(pi
k t). So c[0] is the mean luma, and the sum of the squares of all others is the variance of the low-passed luma.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = np.ndarray
"""Float32 arrays: a name for readers, since numpy's stubs say float64 of most sums of them."""

SIDE = 16
"""Frequencies along each axis: 0 to 15 half waves."""
GRID = 64
"""The luma is reduced to this many samples along each axis before its cosines are taken."""
BYTES = SIDE * SIDE + 8
FORMAT = 1
"""First byte of a signature, in the place that the mean does not need."""
CHANGE_FORMAT = 2
"""First byte of the signature of a change."""
_LEVELS = 127


def signature(grey: np.ndarray) -> bytes:
    """The signature of a luma picture.

    Args:
        grey: uint8 (height, width), both at least 1. Half a thousand pixels are more than enough: 64 x 64 are used.

    Returns: `BYTES` bytes: the format, 255 coefficients as int8 on a square-root scale (so that the faint high
    frequencies keep their signs and about 1 % of precision), then as little-endian float32 the mean luma and the
    largest absolute coefficient, both in grey levels.
    """
    return _pack(_cosines(_reduced(grey)), FORMAT)


def of_difference(source: np.ndarray, edited: np.ndarray) -> bytes:
    """The signature of what an edit changed: luma of the edited picture minus that of its source.

    Args:
        source, edited: uint8 (height, width), each of any size: both are squashed to the same square.

    Returns: as `signature`; the mean is the mean change (-255..255). Nothing changed: all coefficients are zero.
    """
    return _pack(_cosines(_reduced(edited) - _reduced(source)), CHANGE_FORMAT)


def valid(packed: bytes | None) -> bool:
    """Whether these bytes can be a signature: of right length and format, with finite numbers."""
    return packed is not None and len(packed) == BYTES and bool(whole(np.frombuffer(packed, np.uint8)[None])[0])


def unpack(packed: Sequence[bytes]) -> Floats:
    """Coefficients float32 (n, 256) in grey levels, c[:, 0] the mean.

    Raises ValueError naming the first one that is no signature.
    """
    for number, one in enumerate(packed):
        if not valid(one):
            found = "null" if one is None else f"{len(one)} bytes"
            raise ValueError(f"signature {number} is damaged: {found}, expected {BYTES} bytes of format {FORMAT}")
    return unpack_array(np.frombuffer(b"".join(packed), np.uint8).reshape(-1, BYTES))


def unpack_array(packed: np.ndarray) -> Floats:
    """As `unpack`, of valid signatures as one array uint8 (n, 264)."""
    packed = np.ascontiguousarray(packed)
    codes = packed[:, : SIDE * SIDE].view(np.int8).astype(np.float32)
    mean, peak = packed[:, SIDE * SIDE :].copy().view("<f4").astype(np.float32).T
    coefficients = codes * np.abs(codes) * (peak / _LEVELS**2)[:, None]
    coefficients[:, 0] = mean
    return coefficients


def whole(packed: np.ndarray) -> NDArray[np.bool_]:
    """Which of these (n,) can be signatures, uint8 (n, 264): of a known format, with finite numbers."""
    numbers = np.ascontiguousarray(packed[:, SIDE * SIDE :]).view("<f4")
    return np.isin(packed[:, 0], (FORMAT, CHANGE_FORMAT)) & np.isfinite(numbers).all(axis=1)


def hashes(coefficients: Floats, bits: int) -> NDArray[np.uint8]:
    """Signs of the `bits` (at most 255) lowest frequencies, lowest first: uint8 (n, ceil(bits / 8)), packed as numpy
    packs them; bits beyond `bits` are 0. A coefficient of exactly zero gives 0."""
    return np.packbits(coefficients[:, order()[:bits]] > 0, axis=1)


def flipped(coefficients: Floats) -> Floats:
    """Coefficients of the mirrored photographs (left becomes right): odd horizontal frequencies change sign."""
    return coefficients * np.tile(np.where(np.arange(SIDE) % 2, -1, 1), SIDE).astype(np.float32)


def cropped(coefficients: Floats, y: tuple[float, float], x: tuple[float, float]) -> Floats:
    """Coefficients of the windows y[0]..y[1] times x[0]..x[1] (fractions of height and width), drawn out to a square.

    Nearly those of the signature of the really cropped photograph: what lies above the 15th half wave is not known, and
    the edges of the window ring a little.
    """
    return transformed(coefficients, window(*y), window(*x))


def transformed(coefficients: Floats, rows: Floats, columns: Floats) -> Floats:
    """`rows` @ C @ `columns`.T of each photograph's coefficients C; the maps are (16, 16) or one each, (n, 16, 16)."""
    squares = coefficients.reshape(-1, SIDE, SIDE)
    return (rows @ squares @ np.swapaxes(columns, -1, -2)).reshape(-1, SIDE * SIDE)


@cache
def window(start: float, end: float) -> Floats:
    """Maps the coefficients along an axis to those of its part start..end (0 <= start < end <= 1): float32 (16, 16)."""
    if not 0 <= start < end <= 1:
        raise ValueError(f"a window lies in 0..1 and is not empty, not {start}..{end}")
    t = (np.arange(4 * GRID) + 0.5) / (4 * GRID)
    return _fixed((_basis(t).T @ _basis(start + (end - start) * t) / len(t)).astype(np.float32))


@cache
def whitening(frequencies: int = SIDE) -> Floats:
    """Float32 (256): weights that make the coefficients of natural photographs about equally large.

    Their amplitudes fall as 1 / frequency (Field, "Relations between the statistics of natural images and the response
    properties of cortical cells", 1987), so each is multiplied by its radial frequency; 0 for the mean and for those
    that are `frequencies` or more along an axis. Without it, a cosine compares little but the two or three lowest.
    """
    v, h = np.divmod(np.arange(SIDE * SIDE), SIDE)
    weights = np.hypot(v, h) * ((v < frequencies) & (h < frequencies))
    return _fixed(weights.astype(np.float32))


def unit(coefficients: Floats, weights: Floats | None = None) -> Floats:
    """Coefficients times `weights` (default: `whitening()`), scaled to length 1; zeros stay zeros. The mean is dropped
    by weights that are 0 there."""
    weighted = coefficients * (whitening() if weights is None else weights)
    lengths = np.linalg.norm(weighted, axis=1, keepdims=True)
    return weighted / np.where(lengths > 0, lengths, 1)


def cosine(first: Floats, second: Floats, weights: Floats | None = None) -> Floats:
    """Similarity float32 (n) of coefficients pair by pair, -1..1: the correlation of the two low-passed and whitened
    photographs, blind to brightness and contrast. 0 where one has no contrast at all."""
    return np.einsum("nc,nc->n", unit(first, weights), unit(second, weights)).clip(-1, 1)


def contrast(coefficients: Floats) -> Floats:
    """Standard deviation float32 (n) of the low-passed luma, grey levels."""
    return np.linalg.norm(coefficients[:, 1:], axis=1)


def reconstruct(coefficients: Floats, side: int = 32) -> Floats:
    """The low-passed luma float32 (n, side, side) in grey levels, not clipped to 0..255."""
    basis = _basis((np.arange(side) + 0.5) / side).astype(np.float32)
    return basis @ coefficients.reshape(-1, SIDE, SIDE) @ basis.T


def psnr(first: Floats, second: Floats) -> Floats:
    """Peak signal-to-noise ratio float32 (n) of pictures (n, height, width) in grey levels 0..255, dB; infinite where
    they are equal."""
    error = np.square(first - second).mean(axis=(1, 2), dtype=np.float64)
    with np.errstate(divide="ignore"):
        return (10 * np.log10(255.0**2 / error)).astype(np.float32)


def ssim(first: Floats, second: Floats) -> Floats:
    """Structural similarity float32 (n), -1..1, of pictures (n, side, side) in grey levels 0..255.

    Wang et al., "Image quality assessment: from error visibility to structural similarity" (2004): Gaussian window of
    11 x 11 with standard deviation 1.5, K1 = 0.01, K2 = 0.03, mean over the places where the window lies inside.
    """
    blur = _gaussian(first.shape[-1])

    def mean(values: Floats) -> Floats:
        return blur @ values @ blur.T

    x, y = first.astype(np.float64), second.astype(np.float64)
    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return similarity.mean(axis=(1, 2)).astype(np.float32)


@cache
def order() -> NDArray[np.int64]:
    """Positions of the 255 coefficients without the mean, by radial frequency, lowest first."""
    v, h = np.divmod(np.arange(1, SIDE * SIDE), SIDE)
    return _fixed(1 + np.lexsort((h, v, v * v + h * h)))


def _reduced(grey: np.ndarray) -> Floats:
    if grey.ndim != 2 or grey.dtype != np.uint8 or min(grey.shape) < 1:
        raise ValueError(f"a signature needs uint8 luma (height, width), not {grey.dtype} {grey.shape}")
    return cv2.resize(grey.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA)


def _cosines(square: Floats) -> Floats:
    basis = _grid_basis()
    return (basis.T @ square @ basis).ravel()


def _pack(coefficients: Floats, form: int) -> bytes:
    mean, peak = float(coefficients[0]), float(np.abs(coefficients[1:]).max())
    # Rounding in the transform leaves 1e-5 grey levels where there is nothing; signs of that would be noise.
    peak = peak if peak > 1e-3 else 0.0
    codes = np.zeros(SIDE * SIDE, np.int8)
    if peak:
        codes[:] = np.rint(_LEVELS * np.sign(coefficients) * np.sqrt(np.minimum(np.abs(coefficients) / peak, 1)))
    codes[0] = form
    return codes.tobytes() + struct.pack("<ff", mean, peak)


def _basis(t: np.ndarray) -> np.ndarray:
    """The cosines at positions t in 0..1: float64 (len(t), 16)."""
    return np.where(np.arange(SIDE) == 0, 1.0, np.sqrt(2.0)) * np.cos(np.pi * t[:, None] * np.arange(SIDE))


@cache
def _grid_basis() -> Floats:
    return _fixed((_basis((np.arange(GRID) + 0.5) / GRID) / GRID).astype(np.float32))


@cache
def _gaussian(side: int) -> np.ndarray:
    """Rows are the Gaussian window at each place of a line of `side` samples: float64 (side - 10, side)."""
    if side < 11:
        raise ValueError(f"structural similarity needs at least 11 x 11 pixels, not {side}")
    taps = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
    taps /= taps.sum()
    out = np.zeros((side - 10, side))
    for place in range(side - 10):
        out[place, place : place + 11] = taps
    return _fixed(out)


def _fixed(values: np.ndarray) -> np.ndarray:
    values.flags.writeable = False
    return values
