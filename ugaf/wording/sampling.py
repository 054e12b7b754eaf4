"""Proportioning edits over tasks: weights hold over the whole set, though each image decides alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def allocate(
    weights: Mapping[str, float], capacity: Mapping[str, int], count: int, rng: np.random.Generator
) -> dict[str, int]:
    """How many edits of each task one image gets.

    Systematic sampling with probability proportional to size (Madow, *On the Theory of Systematic Sampling II*, 1949):
    the expected number of edits of a task is exactly `count * weight / sum of weights` where no capacity binds,
    which drawing tasks one after another without replacement does not give. What a full task cannot take goes to
    the others in proportion to their weights.

    Args:
        weights: by task, >= 0.
        capacity: how many different edits of the task the image allows; a missing task allows none.
        count: edits wanted for this image; fewer are given where the capacities add up to fewer.

    Returns:
        Tasks with at least one edit, in the order of `weights`; values add up to min(count, sum of capacities).
    """
    open_tasks = [task for task, weight in weights.items() if weight > 0 and capacity.get(task, 0) > 0]
    count = min(count, sum(capacity[task] for task in open_tasks))
    if count <= 0:
        return {}
    expected = _shares(open_tasks, weights, capacity, count)
    order = rng.permutation(len(open_tasks))
    edges = np.concatenate([[0.0], np.cumsum(expected[order])])
    edges[-1] = count
    # Integer ticks shifted by one uniform number: a task gets one edit for each tick in its interval.
    ticks = np.floor(edges + rng.random() - 1e-9).astype(int)
    given = np.diff(ticks)
    by_task = {open_tasks[i]: int(n) for i, n in zip(order, given, strict=True)}
    return {task: by_task[task] for task in open_tasks if by_task[task] > 0}


def _shares(tasks: list[str], weights: Mapping[str, float], capacity: Mapping[str, int], count: int) -> np.ndarray:
    """Expected edits by task: proportional to weight, never above capacity, adding up to `count`."""
    weight = np.array([weights[task] for task in tasks], dtype=float)
    limit = np.array([capacity[task] for task in tasks], dtype=float)
    full = np.zeros(len(tasks), dtype=bool)
    shares = np.zeros(len(tasks))
    while True:
        left = count - limit[full].sum()
        shares = np.where(full, limit, 0.0)
        if full.all() or left <= 0:
            return shares
        shares[~full] = left * weight[~full] / weight[~full].sum()
        over = ~full & (shares > limit + 1e-9)
        if not over.any():
            return shares
        full |= over


def choose(weights: Mapping[str, float], rng: np.random.Generator) -> str:
    """One key, with probability proportional to its weight."""
    keys = [key for key, weight in weights.items() if weight > 0]
    values = np.array([weights[key] for key in keys], dtype=float)
    return keys[int(rng.choice(len(keys), p=values / values.sum()))]
