"""How good an edit is among those of its group: the advantage, and the optimality probability that follows from it.

Pure functions on arrays; an edit without a reward is NaN and stays NaN.
"""

from __future__ import annotations

import numpy as np

EPS = 1e-4
"""Added to standard deviations: rewards that differ by less than this are equal."""


def centred(rewards: np.ndarray) -> np.ndarray:
    """Each reward less the mean of its group: float64 (groups, members).

    A group with fewer than two rewards has nobody to compare with: all NaN.
    """
    known = ~np.isnan(rewards)
    counts = known.sum(axis=1, keepdims=True)
    means = np.where(known, rewards, 0).sum(axis=1, keepdims=True) / np.maximum(1, counts)
    return np.where(counts >= 2, rewards - means, np.nan)


def group_scale(rewards: np.ndarray) -> np.ndarray:
    """The standard deviation of each group's rewards: float64 (groups, 1); 0 for one without rewards."""
    known = ~np.isnan(rewards)
    squares = np.where(known, centred(rewards), 0.0)
    squares = np.where(np.isnan(squares), 0.0, squares) ** 2
    return np.sqrt(squares.sum(axis=1, keepdims=True) / np.maximum(1, known.sum(axis=1, keepdims=True)))


def advantages(rewards: np.ndarray, scale: float | np.ndarray) -> np.ndarray:
    """Each reward against the mean of its group, in units of `scale`: float64 (groups, members).

    scale: a standard deviation, of all rewards of the epoch or of each group (groups, 1).
    """
    return centred(rewards) / (scale + EPS)


def optimality(advantages: np.ndarray, clip: float) -> np.ndarray:
    """r = 1/2 + 1/2 clip(advantage / `clip`, -1, 1): 0 wholly bad, 1/2 neutral, 1 wholly good (DiffusionNFT, arXiv
    2509.16117, section 3.3); NaN stays."""
    return 0.5 + 0.5 * np.clip(advantages / clip, -1, 1)


def semi_hard(rewards: np.ndarray, least_mean: float | None, most_worst: float | None) -> np.ndarray:
    """Which groups are worth learning from: bool (groups,). See `MiningSettings`; a group without rewards is not."""
    chosen = []
    for group in rewards:
        found = group[~np.isnan(group)]
        chosen.append(
            len(found) >= 2
            and (least_mean is None or found.mean() >= least_mean)
            and (most_worst is None or found.min() <= most_worst)
        )
    return np.array(chosen, dtype=bool)
