"""Is it the same photograph? Two signatures laid over each other as well as a crop allows, and compared.

One of the two may be a window of the other. The best of the 16 windows of the search is refined to 1 % of a
side, and then compared by four numbers: Hamming distance, whitened cosine, and PSNR and SSIM of the low-passed luma.
All of it works on coefficients; no picture is decoded again.

A cosine says little about photographs with little in them: two clear skies are one gradient. `detail` counts over how
many coefficients the evidence is spread, and `required` asks for more the fewer they are.
"""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from ugaf.dedup import search
from ugaf.measures import signatures
from ugaf.measures.signatures import Floats

FREQUENCIES = 12
"""Half waves along each axis that are compared: a window of 90 % of a photograph is known up to 0.9 x 15."""
CUT = 13
"""A window cuts 0 to 12 hundredths off each end of an axis."""
LITTLE, PLENTY = 1.5, 6.0
"""Effective numbers of coefficients: with fewer than the one nothing can be said, from the other on the evidence is
that of an ordinary photograph."""
SPARSE_SIMILARITY = 0.9
CONTRAST = 2.0
"""Grey levels (standard deviation of the low-passed luma) under which there is only noise to compare."""
STEPS, ALIKE = 3, 0.995
"""Steps of alignment, for pairs whose cosine is not yet above this."""
SIDE = 32
BEST_PSNR = 100.0
"""Stands for equal pictures, whose PSNR is infinite."""
PAIRS = 1024
"""Pairs that are looked at together, which bounds the memory."""


def compare(first: Floats, second: Floats, flips: bool = False) -> dict[str, np.ndarray]:
    """Compare photographs pair by pair, at the best window; the order of the two does not matter.

    Args:
        first, second: coefficients float32 (n, 256), see `ugaf.measures.signatures`.
        flips: a mirrored copy counts as a copy.

    Returns: arrays (n,). distance: int32, differing bits of 96. similarity: float32, whitened cosine, -1..1. psnr:
    float32, dB, at most 100; ssim: float32, -1..1: both of the aligned low-passed luma at 32 x 32, without adjusting
    brightness or contrast.
    """
    parts = [_compare(first[part], second[part], flips) for part in search.slices(len(first), PAIRS)]
    parts = parts or [_compare(first, second, flips)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def detail(coefficients: Floats) -> Floats:
    """Effective number float32 (n,) of whitened coefficients that share a photograph's energy: (sum e)^2 / sum e^2.

    Between 1 (a plain gradient) and 143; an ordinary photograph has 10 to 60. 0 where the contrast is below
    `CONTRAST`.
    """
    energy = np.square((coefficients * _weights()).astype(np.float64))
    effective = energy.sum(axis=1) ** 2 / np.maximum(np.square(energy).sum(axis=1), 1e-30)
    return np.where(signatures.contrast(coefficients) >= CONTRAST, effective, 0).astype(np.float32)


def required(details: Floats, least: float) -> Floats:
    """The similarity (n,) from which two photographs are linked, by the smaller `detail` of the two.

    `least` for ordinary photographs. Below `PLENTY` coefficients it rises from 0.9 to 1, and below `LITTLE` nothing is
    enough (2): a plain gradient equals every other one.
    """
    sparse = 1 - (1 - SPARSE_SIMILARITY) * (details - LITTLE) / (PLENTY - LITTLE)
    needed = np.where(details < PLENTY, np.maximum(sparse, least), least)
    return np.where(details < LITTLE, 2, needed).astype(np.float32)


def _compare(first: Floats, second: Floats, flips: bool) -> dict[str, np.ndarray]:
    best = np.full(len(first), -2, np.float32)
    start = np.zeros((len(first), 4), np.int64)
    whole, target = first.copy(), second.copy()
    for one, other in ((first, second), (second, first)):
        goal = _unit(other[:, _compared()] * _weights()[_compared()])
        for variant, (cuts, view) in product(search.variants(one, flips), _views()):
            # float32 sums differ in the last digits with the order of the two; a hair is no better window.
            cosine = np.einsum("nc,nc->n", _unit(variant @ view), goal)
            better = cosine > best + 1e-5
            best[better], start[better] = cosine[better], cuts
            whole[better], target[better] = variant[better], other[better]
    aligned = _refine(whole, target, start)
    pictures = signatures.reconstruct(aligned, SIDE), signatures.reconstruct(target, SIDE)
    return {
        "distance": search.distance(aligned, target),
        "similarity": signatures.cosine(aligned, target, _weights()),
        "psnr": np.minimum(signatures.psnr(*pictures), BEST_PSNR).astype(np.float32),
        "ssim": signatures.ssim(*pictures),
    }


def _refine(whole: Floats, target: Floats, cuts: NDArray[np.int64]) -> Floats:
    """The best window's coefficients: least squares for the target from the window and its derivatives by the four
    edges (Gauss-Newton), in whole hundredths; a step that does not improve the cosine is not taken."""
    goal = signatures.unit(target, _weights())
    aligned = _cut(whole, cuts)
    best = np.einsum("nc,nc->n", signatures.unit(aligned, _weights()), goal)
    moving = np.arange(len(whole))
    for _ in range(STEPS):
        moving = moving[best[moving] < ALIKE]
        tried = (cuts[moving] + _step(whole[moving], goal[moving], aligned[moving], cuts[moving])).clip(0, CUT - 1)
        moving, tried = moving[changed := (tried != cuts[moving]).any(axis=1)], tried[changed]
        moved = _cut(whole[moving], tried)
        cosine = np.einsum("nc,nc->n", signatures.unit(moved, _weights()), goal[moving])
        better = cosine > best[moving] + 1e-6
        moving = moving[better]
        best[moving], cuts[moving], aligned[moving] = cosine[better], tried[better], moved[better]
    return aligned


def _step(whole: Floats, goal: Floats, aligned: Floats, cuts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Hundredths (n, 4) by which to move the edges."""
    terms = np.empty((len(whole), len(_compared()), 5), np.float32)
    terms[..., 0] = aligned[:, _compared()]
    side = np.where(cuts < CUT - 1, 1, -1)
    for edge in range(4):
        moved = cuts.copy()
        moved[:, edge] += side[:, edge]
        terms[..., 1 + edge] = (_cut(whole, moved)[:, _compared()] - terms[..., 0]) * side[:, edge, None]
    terms *= _weights()[_compared(), None]
    transposed = np.swapaxes(terms, 1, 2)
    normal = (transposed @ terms).astype(np.float64)
    # A trace of ridge: an edge along which the photograph does not change (a sky) has no derivative.
    normal += 1e-4 * np.eye(5) * (1e-9 + np.trace(normal, axis1=1, axis2=2) / 5)[:, None, None]
    gains = np.linalg.solve(normal, (transposed @ goal[:, _compared(), None]).astype(np.float64))[..., 0]
    scale = np.where(np.abs(gains[:, :1]) > 1e-12, gains[:, :1], np.inf)
    return np.rint((gains[:, 1:] / scale).clip(-CUT, CUT)).astype(np.int64)


def _cut(whole: Floats, cuts: NDArray[np.int64]) -> Floats:
    maps = _windows()
    return signatures.transformed(whole, maps[cuts[:, 0], cuts[:, 1]], maps[cuts[:, 2], cuts[:, 3]])


def _unit(values: Floats) -> Floats:
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(lengths > 0, lengths, 1)


@cache
def _weights() -> Floats:
    return signatures.whitening(FREQUENCIES)


@cache
def _compared() -> NDArray[np.intp]:
    return np.flatnonzero(_weights())


@cache
def _views() -> tuple[tuple[tuple[int, ...], Floats], ...]:
    """The search's windows: hundredths cut off (top, bottom, left, right), and float32 (256, 143) to whitened
    coefficients."""
    scale = _weights()[_compared()][:, None]
    return tuple(
        (
            tuple(round(100 * cut) for cut in (y[0], 1 - y[1], x[0], 1 - x[1])),
            np.ascontiguousarray((np.kron(signatures.window(*y), signatures.window(*x))[_compared()] * scale).T),
        )
        for y, x in product(search.SPANS, search.SPANS)
    )


@cache
def _windows() -> Floats:
    """float32 (13, 13, 16, 16): maps of an axis by hundredths cut off its start and its end."""
    cuts = range(CUT)
    return np.stack([[signatures.window(near / 100, 1 - far / 100) for far in cuts] for near in cuts])
