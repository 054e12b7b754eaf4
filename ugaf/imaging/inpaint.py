"""Fill a hole in a photograph with what surrounds it: coarse-to-fine patch-based completion.

Each patch of the hole looks for its nearest patch in the known part, each pixel becomes the weighted vote of the
patches that cover it, and the two steps alternate from a coarse picture to a fine one (Wexler, Shechtman and Irani,
"Space-Time Completion of Video", TPAMI 2007; the texture channels are after Newson et al., "Video Inpainting of Complex
Scenes", SIAM J. Imaging Sciences 2014). Patches are compared by their principal components: all against all on small
levels, by PatchMatch (Barnes et al., SIGGRAPH 2009) on larger ones. The search runs on a reduced picture. At full
resolution whole areas are copied along the best matches, so that texture stays sharp, and only their low frequencies
are corrected to those of the vote, so that the areas join.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ugaf.imaging import blending

RADIUS = 3
"""Patches are 7 x 7."""
COMPONENTS = 20
MOST_HOLE, MOST_PIXELS = 14_000, 150_000
"""The search's picture is reduced until hole and window have at most that many pixels."""
EXHAUSTIVE = 80_000_000
"""Compare all patches with all up to this many pairs."""
ROW_PRIOR, COLUMN_PRIOR = 9.0, 5.0
"""What a distance of the whole window costs, in Lab units: scenes are layered, so the same row is a better source."""
TEXTURE = 0.7
SEAM_SIGMA = 2.5
"""Above this scale, in pixels of the reduced picture, the vote decides; below it, the copy."""
STEP = 0.6
"""Scale from one level to the next coarser one."""


@dataclass
class _Level:
    """picture: float32 (h, w, 5), Lab and two texture channels. hole, source: bool (h, w); source: patch centres."""

    picture: np.ndarray
    hole: np.ndarray
    source: np.ndarray


def fill(rgb: np.ndarray, hole: np.ndarray, avoid: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """The picture with its hole filled; pixels outside the hole are returned unchanged.

    Args:
        rgb: uint8 (h, w, 3). hole: bool (h, w).
        avoid: bool (h, w), known pixels that must not be copied (other objects); ignored where too little is left.
        seed: of the random search.

    Raises:
        ValueError: nothing is left to copy from.
    """
    if not hole.any():
        return rgb.copy()
    window = _window(hole)
    part, part_hole = rgb[window], hole[window]
    banned = part_hole.copy()
    if avoid is not None and (~(part_hole | avoid[window])).sum() > max(0.15 * part_hole.size, 1.2 * part_hole.sum()):
        banned |= avoid[window]
    result = rgb.copy()
    result[window][part_hole] = _complete(part, part_hole, banned, np.random.default_rng(seed))[part_hole]
    return result


def _window(hole: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(hole.any(axis=1)), np.flatnonzero(hole.any(axis=0))
    tall, wide = rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]
    reach = max(48, round(0.75 * max(tall, wide)))
    return (
        slice(max(0, rows[0] - reach), min(hole.shape[0], rows[-1] + 1 + reach)),
        slice(max(0, columns[0] - reach), min(hole.shape[1], columns[-1] + 1 + reach)),
    )


def _complete(rgb: np.ndarray, hole: np.ndarray, banned: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    scale = min(1.0, np.sqrt(MOST_HOLE / hole.sum()), np.sqrt(MOST_PIXELS / hole.size))
    levels = _pyramid(rgb, hole, banned, float(scale))
    field, costs, previous = None, None, None
    for index, level in enumerate(reversed(levels)):
        if previous is None or field is None:
            level.picture = blending.spread(level.picture, ~level.hole, 1.5)
            rounds = 8
        else:
            field = _enlarge_field(field, previous, level, rng)
            _vote(level, field, np.ones(level.hole.shape, np.float32), 1.0)
            rounds = 4 if index < len(levels) - 1 else 3
        field, costs = _iterate(level, field, rounds, rng)
        previous = level
    assert field is not None
    assert costs is not None
    return _render(rgb, banned, levels[0], field, costs)


def _pyramid(rgb: np.ndarray, hole: np.ndarray, banned: np.ndarray, scale: float) -> list[_Level]:
    """Finest first. A reduced pixel is hole (or banned) if any of its pixels is, so that nothing of it leaks."""
    levels: list[_Level] = []
    while True:
        size = (max(1, round(hole.shape[1] * scale)), max(1, round(hole.shape[0] * scale)))
        if min(size) < 4 * RADIUS + 2 and levels:
            return levels
        small_hole = cv2.resize(hole.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 1e-3
        small_ban = cv2.resize(banned.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 1e-3
        source = ~_square(small_ban | small_hole, RADIUS)
        source[:RADIUS], source[-RADIUS:], source[:, :RADIUS], source[:, -RADIUS:] = False, False, False, False
        if source.sum() < 150:
            if levels:
                return levels
            raise ValueError("the hole leaves too little around it to copy from")
        levels.append(_Level(_channels(rgb, size, small_hole), small_hole, source))
        if cv2.distanceTransform(small_hole.astype(np.uint8), cv2.DIST_L2, 5).max() <= 3.5:
            return levels
        scale *= STEP


def _channels(rgb: np.ndarray, size: tuple[int, int], hole: np.ndarray) -> np.ndarray:
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB)
    known = (~_square(hole, 1)).astype(np.float32)
    across = np.abs(cv2.Sobel(lab[..., 0], cv2.CV_32F, 1, 0, scale=0.25)) * known
    down = np.abs(cv2.Sobel(lab[..., 0], cv2.CV_32F, 0, 1, scale=0.25)) * known
    weight = cv2.blur(known, (9, 9)) + 1e-3
    texture = [TEXTURE * cv2.blur(edge, (9, 9)) / weight for edge in (across, down)]
    return np.dstack([lab, *texture]).astype(np.float32)


def _square(mask: np.ndarray, radius: int) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)).astype(bool)


def _iterate(
    level: _Level, field: np.ndarray | None, rounds: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Alternate search and vote on one level.

    Returns the field, int32 (h, w, 2), the (row, column) that each pixel's patch copies, and its costs, float32 (h, w).
    """
    height, width = level.hole.shape
    sources = np.argwhere(level.source).astype(np.int32)
    targets = np.argwhere(_square(level.hole, RADIUS)).astype(np.int32)
    place = np.array([ROW_PRIOR / height, COLUMN_PRIOR / width], np.float32)
    patches = _patches(level.picture, sources)
    sample = patches[rng.choice(len(patches), min(3000, len(patches)), replace=False)]
    mean = sample.mean(axis=0)
    _, axes = np.linalg.eigh((sample - mean).T @ (sample - mean))
    basis = axes[:, ::-1][:, :COMPONENTS] / (2 * RADIUS + 1)
    known = np.hstack([(patches - mean) @ basis, sources * place]).astype(np.float32)
    lookup = np.full((height, width), -1, np.int32)
    lookup[tuple(sources.T)] = np.arange(len(sources))
    if field is None:
        field = np.zeros((height, width, 2), np.int32)
        field[tuple(targets.T)] = sources[rng.integers(0, len(sources), len(targets))]
    costs = np.zeros((height, width), np.float32)
    for turn in range(rounds):
        wanted = np.hstack([(_patches(level.picture, targets) - mean) @ basis, targets * place]).astype(np.float32)
        if len(sources) * len(targets) <= EXHAUSTIVE:
            best, cost = _search_all(known, wanted)
        else:
            start = lookup[tuple(field[tuple(targets.T)].T)]
            best, cost = _patchmatch(known, wanted, sources, targets, lookup, start, rng)
        field[tuple(targets.T)] = sources[best]
        costs[tuple(targets.T)] = cost
        _vote(level, field, costs, 0.6 if turn < rounds - 1 else 0.25)
    return field, costs


def _patches(picture: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """float32 (n, 7 * 7 * channels); reflected beyond the border."""
    side = 2 * RADIUS + 1
    padded = cv2.copyMakeBorder(picture[..., :3], RADIUS, RADIUS, RADIUS, RADIUS, cv2.BORDER_REFLECT_101)
    texture = cv2.copyMakeBorder(picture[..., 3:], RADIUS, RADIUS, RADIUS, RADIUS, cv2.BORDER_REFLECT_101)
    padded = np.dstack([padded, texture])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(0, 1))
    return windows[centres[:, 0], centres[:, 1]].reshape(len(centres), -1)


def _search_all(known: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row of wanted (t, d) the index of its nearest row of known (s, d), and the squared distance."""
    best = np.empty(len(wanted), np.int32)
    cost = np.empty(len(wanted), np.float32)
    norms = (known**2).sum(axis=1)
    step = max(1, 8_000_000 // len(known))
    for first in range(0, len(wanted), step):
        some = wanted[first : first + step]
        distance = norms - 2 * some @ known.T
        index = distance.argmin(axis=1)
        best[first : first + step] = index
        cost[first : first + step] = distance[np.arange(len(some)), index] + (some**2).sum(axis=1)
    return best, np.maximum(cost, 0)


def _patchmatch(
    known: np.ndarray,
    wanted: np.ndarray,
    sources: np.ndarray,
    targets: np.ndarray,
    lookup: np.ndarray,
    best: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Propagation and random search for all targets at once, from `best` (index of each target's source)."""
    height, width = lookup.shape
    cost = ((known[best] - wanted) ** 2).sum(axis=1)
    order = np.full((height, width), -1, np.int32)
    order[tuple(targets.T)] = np.arange(len(targets))
    limit = np.array([height - 1, width - 1])

    def attempt(places: np.ndarray) -> None:
        index = lookup[tuple(np.clip(places, 0, limit).T)]
        rows = np.flatnonzero((index >= 0) & (index != best))
        distance = ((known[index[rows]] - wanted[rows]) ** 2).sum(axis=1)
        better = distance < cost[rows]
        best[rows[better]], cost[rows[better]] = index[rows[better]], distance[better]

    for jump in (4, 2, 1):
        for shift in np.array([(0, jump), (jump, 0), (0, -jump), (-jump, 0)]):
            near = order[tuple(np.clip(targets - shift, 0, limit).T)]
            own = np.arange(len(targets))
            attempt(sources[best[np.where(near >= 0, near, own)]] + np.where(near >= 0, 1, 0)[:, None] * shift)
        reach = max(height, width)
        while reach >= 2:
            attempt(sources[best] + rng.integers(-reach, reach + 1, (len(targets), 2)))
            reach //= 3
    return best, cost


def _vote(level: _Level, field: np.ndarray, costs: np.ndarray, softness: float) -> None:
    """Set each hole pixel to the mean of the pixels that the patches covering it would copy there.

    A patch's weight falls with its cost, relative to the usual one, and with its distance from the known part.
    """
    height, width = level.hole.shape
    rows, columns = np.nonzero(level.hole)
    usual = max(float(np.percentile(costs[level.hole], 75)) * softness, 1e-3)
    depth = cv2.distanceTransform(level.hole.astype(np.uint8), cv2.DIST_L2, 5)
    weights = np.exp(-costs / (2 * usual)) * 1.25 ** -np.minimum(depth, 30) + 1e-8
    total = np.zeros((len(rows), level.picture.shape[2]), np.float32)
    norm = np.zeros(len(rows), np.float32)
    for dy in range(-RADIUS, RADIUS + 1):
        for dx in range(-RADIUS, RADIUS + 1):
            y, x = rows - dy, columns - dx
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            y, x = np.where(inside, y, rows), np.where(inside, x, columns)
            weight = np.where(inside, weights[y, x], 0)
            copied = field[y, x]
            value = level.picture[np.minimum(copied[:, 0] + dy, height - 1), np.minimum(copied[:, 1] + dx, width - 1)]
            total += value * weight[:, None]
            norm += weight
    level.picture[rows, columns] = total / norm[:, None]


def _enlarge_field(field: np.ndarray, coarse: _Level, fine: _Level, rng: np.random.Generator) -> np.ndarray:
    height, width = fine.hole.shape
    low_height, low_width = coarse.hole.shape
    targets = np.argwhere(_square(fine.hole, RADIUS))
    ratio = np.array([height / low_height, width / low_width])
    near = np.minimum((targets / ratio).astype(int), [low_height - 1, low_width - 1])
    matched = field[tuple(near.T)]
    places = np.rint((matched - near) * ratio).astype(int) + targets
    places = np.clip(places, 0, [height - 1, width - 1])
    wrong = ~fine.source[tuple(places.T)] | (matched == 0).all(axis=1)
    sources = np.argwhere(fine.source)
    places[wrong] = sources[rng.integers(0, len(sources), int(wrong.sum()))]
    result = np.zeros((height, width, 2), np.int32)
    result[tuple(targets.T)] = places
    return result


def _best_cover(level: _Level, field: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """For each hole pixel the place that the best of all patches covering it copies there: int32 (h, w, 2)."""
    height, width = level.hole.shape
    rows, columns = np.nonzero(level.hole)
    best = np.full(len(rows), np.inf, np.float32)
    place = np.zeros((len(rows), 2), np.int32)
    for dy in range(-RADIUS, RADIUS + 1):
        for dx in range(-RADIUS, RADIUS + 1):
            y, x = rows - dy, columns - dx
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            y, x = np.where(inside, y, rows), np.where(inside, x, columns)
            # Nearer the patch's middle is a little better, so that the copied areas are whole.
            cost = np.where(inside, costs[y, x] * (1 + 0.02 * (dy * dy + dx * dx)), np.inf)
            better = cost < best
            best[better] = cost[better]
            place[better] = field[y[better], x[better]] + (dy, dx)
    result = np.zeros((height, width, 2), np.int32)
    result[rows, columns] = np.clip(place, 0, [height - 1, width - 1])
    return result


def _render(rgb: np.ndarray, banned: np.ndarray, level: _Level, field: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Full resolution: whole areas copied by the best patches, their low frequencies corrected to those of the vote."""
    height, width = rgb.shape[:2]
    low_height, low_width = level.hole.shape
    cover = _best_cover(level, field, costs)
    voted = level.picture[..., :3]
    copied = voted.copy()
    copied[level.hole] = voted[tuple(cover[level.hole].T)]
    # Inside, the copy is true to texture but has seams; at low frequencies the vote is free of them.
    base = copied + cv2.GaussianBlur(voted - copied, (0, 0), SEAM_SIGMA)
    base = cv2.cvtColor(np.ascontiguousarray(base), cv2.COLOR_LAB2RGB) * 255
    if (low_height, low_width) == (height, width):
        return np.clip(np.rint(base), 0, 255).astype(np.uint8)
    known = cv2.resize(rgb, (low_width, low_height), interpolation=cv2.INTER_AREA)
    smooth = cv2.resize(base, (width, height), interpolation=cv2.INTER_CUBIC)
    detail = rgb - cv2.resize(known.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    rows, columns = np.mgrid[0:height, 0:width]
    ratio = np.array([height / low_height, width / low_width])
    y = np.minimum((rows / ratio[0]).astype(int), low_height - 1)
    x = np.minimum((columns / ratio[1]).astype(int), low_width - 1)
    from_y = np.clip(rows + np.rint((cover[y, x, 0] - y) * ratio[0]).astype(int), 0, height - 1)
    from_x = np.clip(columns + np.rint((cover[y, x, 1] - x) * ratio[1]).astype(int), 0, width - 1)
    carried = detail[from_y, from_x]
    carried[banned[from_y, from_x]] = 0
    return np.clip(np.rint(smooth + carried), 0, 255).astype(np.uint8)
