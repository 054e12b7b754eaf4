"""Region hierarchies: superpixels merged step by step, so that an object is found at whatever size it has.

Three ways of merging disagree where an image is hard, and an object has only to be whole in one of them. A tree is an
int array (m, 2): row t names the two nodes joined into node n + t; nodes 0..n-1 are the superpixels.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numpy as np

from ugaf.models.detectors.proposals.segmentation import Regions


def grow_all(regions: Regions) -> list[np.ndarray]:
    """The trees of all three ways of merging."""
    return [
        merge_by_walls(regions),
        merge_by_distance(regions, spectral_coordinates(regions)),
        merge_by_words(regions),
    ]


def spectral_coordinates(regions: Regions, count: int = 10) -> np.ndarray:
    """Coordinates (n, count) in which superpixels that no contour separates are close.

    The eigenvectors of the normalised cut of the adjacency graph (Shi and Malik, PAMI 2000), each over the root of its
    eigenvalue (Arbelaez et al., PAMI 2011, section 3.2).
    """
    from scipy.linalg import eigh  # slow to import, and each command imports this module

    affinity = _affinity(regions)
    degree = affinity.sum(axis=1)
    root = 1 / np.sqrt(degree)
    n = regions.count
    wanted = min(count, n - 1)
    laplacian = np.eye(n) - root[:, None] * affinity * root[None]
    values, vectors = eigh(laplacian, subset_by_index=[0, wanted])
    scaled = vectors[:, 1:] * root[:, None] / np.sqrt(np.maximum(values[1:], 1e-4))
    weights = regions.sizes / regions.sizes.sum()
    scale = np.sqrt((weights[:, None] * scaled[:, :1] ** 2).sum())
    return scaled / max(scale, 1e-9)


def _affinity(regions: Regions) -> np.ndarray:
    touching = regions.lengths > 0
    gap = np.linalg.norm(regions.features[:, None] - regions.features[None], axis=2)
    affinity = np.where(touching, np.exp(-regions.walls / 0.15 - (gap / 25) ** 2), 0)
    near = ((touching @ touching) > 0) & ~touching
    affinity += np.where(near, 0.3 * np.exp(-((gap / 12) ** 2)), 0)
    np.fill_diagonal(affinity, 1e-3)
    return affinity


def merge_by_walls(regions: Regions) -> np.ndarray:
    """Merge tree of greedy merging over the weakest common contour, small regions first."""
    lengths = [dict.fromkeys(np.flatnonzero(row).tolist(), 0.0) for row in regions.lengths]
    totals: list[dict[int, float]] = [dict(row) for row in lengths]
    for i, row in enumerate(lengths):
        for j in row:
            row[j] = float(regions.lengths[i, j])
            totals[i][j] = float(regions.lengths[i, j] * regions.walls[i, j])
    sizes = regions.sizes.tolist()
    total = float(regions.sizes.sum())

    def cost(i: int, j: int) -> float:
        return (0.03 + totals[i][j] / lengths[i][j]) * (min(sizes[i], sizes[j]) / total) ** 0.25

    def join(i: int, j: int) -> None:
        sizes.append(sizes[i] + sizes[j])
        new_lengths: dict[int, float] = {}
        new_totals: dict[int, float] = {}
        for old in (i, j):
            for k in lengths[old]:
                if k in (i, j):
                    continue
                new_lengths[k] = new_lengths.get(k, 0.0) + lengths[old][k]
                new_totals[k] = new_totals.get(k, 0.0) + totals[old][k]
        new = len(lengths)
        lengths.append(new_lengths)
        totals.append(new_totals)
        for k in new_lengths:
            for table, value in ((lengths, new_lengths[k]), (totals, new_totals[k])):
                table[k].pop(i, None)
                table[k].pop(j, None)
                table[k][new] = value

    return _merge(lengths, cost, join, regions.count)


def merge_by_distance(regions: Regions, coordinates: np.ndarray) -> np.ndarray:
    """Merge tree of touching regions by Ward's criterion on coordinates (n, d), weighted by size."""
    neighbours = [dict.fromkeys(np.flatnonzero(row).tolist(), 0.0) for row in regions.lengths]
    sizes = regions.sizes.tolist()
    means = list(np.asarray(coordinates, np.float64))

    def cost(i: int, j: int) -> float:
        gap = means[i] - means[j]
        return sizes[i] * sizes[j] / (sizes[i] + sizes[j]) * float(gap @ gap)

    def join(i: int, j: int) -> None:
        sizes.append(sizes[i] + sizes[j])
        means.append((sizes[i] * means[i] + sizes[j] * means[j]) / sizes[-1])
        _join_neighbours(neighbours, i, j)

    return _merge(neighbours, cost, join, regions.count)


def merge_by_words(regions: Regions) -> np.ndarray:
    """Merge tree by common colour words, size and fit, after selective search (Uijlings et al., IJCV 2013, 3.2)."""
    neighbours = [dict.fromkeys(np.flatnonzero(row).tolist(), 0.0) for row in regions.lengths]
    sizes = regions.sizes.tolist()
    histograms = list(np.asarray(regions.words, np.float64))
    shares = [h / s for h, s in zip(histograms, sizes, strict=True)]
    total = float(regions.sizes.sum())
    corners = regions.corners.tolist()

    def cost(i: int, j: int) -> float:
        common = float(np.minimum(shares[i], shares[j]).sum())
        a, b = corners[i], corners[j]
        around = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
        fit = 1 - (around - sizes[i] - sizes[j]) / total
        return -(common + (1 - (sizes[i] + sizes[j]) / total) + fit)

    def join(i: int, j: int) -> None:
        sizes.append(sizes[i] + sizes[j])
        histograms.append(histograms[i] + histograms[j])
        shares.append(histograms[-1] / sizes[-1])
        a, b = corners[i], corners[j]
        corners.append([min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])])
        _join_neighbours(neighbours, i, j)

    return _merge(neighbours, cost, join, regions.count)


def _join_neighbours(neighbours: list[dict[int, float]], i: int, j: int) -> None:
    new = len(neighbours)
    around = {k: 0.0 for k in (*neighbours[i], *neighbours[j]) if k not in (i, j)}
    neighbours.append(around)
    for k in around:
        neighbours[k].pop(i, None)
        neighbours[k].pop(j, None)
        neighbours[k][new] = 0.0


def _merge(
    neighbours: list[dict[int, float]], cost: Callable[[int, int], float], join: Callable[[int, int], None], n: int
) -> np.ndarray:
    """Join the two touching nodes of least cost until none touch; `join` appends the new node to `neighbours`."""
    queue = [(cost(i, j), i, j) for i in range(n) for j in neighbours[i] if i < j]
    heapq.heapify(queue)
    gone = [False] * (2 * n)
    tree: list[tuple[int, int]] = []
    while queue:
        _, i, j = heapq.heappop(queue)
        if gone[i] or gone[j]:
            continue
        gone[i] = gone[j] = True
        join(i, j)
        new = n + len(tree)
        tree.append((i, j))
        for k in neighbours[new]:
            heapq.heappush(queue, (cost(new, k), new, k))
    return np.array(tree, dtype=np.int64).reshape(-1, 2)


def nodes_of(tree: np.ndarray, n: int) -> np.ndarray:
    """Members of each node of a merge tree: bool (n + m, n), the leaves first."""
    members = np.zeros((n + len(tree), n), dtype=bool)
    members[np.arange(n), np.arange(n)] = True
    for t, (i, j) in enumerate(tree):
        members[n + t] = members[i] | members[j]
    return members


def cut(tree: np.ndarray, n: int, parts: int) -> np.ndarray:
    """Indices of the nodes that are left when a merge tree stops at `parts` regions."""
    steps = max(0, min(len(tree), n - parts))
    alive = np.ones(n + steps, dtype=bool)
    alive[tree[:steps].ravel()] = False
    return np.flatnonzero(alive)


def components(member: np.ndarray, neighbours: list[list[int]]) -> list[np.ndarray]:
    """The connected parts of a set of superpixels: bool (n,) each."""
    left = set(np.flatnonzero(member).tolist())
    parts = []
    while left:
        stack = [left.pop()]
        found = list(stack)
        while stack:
            for k in neighbours[stack.pop()]:
                if k in left:
                    left.remove(k)
                    stack.append(k)
                    found.append(k)
        part = np.zeros(len(member), dtype=bool)
        part[found] = True
        parts.append(part)
    return parts


def fill_holes(member: np.ndarray, neighbours: list[list[int]], on_border: np.ndarray) -> np.ndarray:
    """The set with the parts of its complement that do not reach the image's border: bool (n,)."""
    filled = member.copy()
    for part in components(~member, neighbours):
        if not (part & on_border).any():
            filled |= part
    return filled
