"""How many of each: servers and workers in proportion to their work, so that all of a segment end together.

A pure function over plain numbers. What is asked for takes GPUs of one node (two for a server of two GPUs), or a share
of one GPU, and CPUs. At least one of each is had; then the time in which all would be done is made as short as fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

TINY = 1e-9


@dataclass(frozen=True)
class Ask:
    """One kind of server or worker. gpus: of one, all on one node; below 1 a share of one GPU. work: seconds that one
    alone would take. count: how many there are, where that is given. most: above which there would be no work."""

    name: str
    gpus: float
    cpus: float
    work: float
    count: int | None = None
    most: int | None = None

    def within(self, seconds: float) -> int:
        """How many do the work in this time."""
        if self.count is not None:
            return self.count
        wanted = max(1, math.ceil(self.work / seconds - TINY)) if seconds > 0 else 1
        return wanted if self.most is None else max(1, min(self.most, wanted))


def packs(sizes: Mapping[float, int], nodes: Sequence[float]) -> bool:
    """Whether so many of each size have room: whole GPUs on one node, a share on one GPU. The largest are laid first,
    each on the first node with room; where sizes divide each other (1, 2, 4, 8), no other way holds more."""
    left = [math.floor(node + TINY) for node in nodes]
    partial = [node % 1 for node in nodes if TINY < node % 1 < 1 - TINY]
    whole = {round(size): count for size, count in sizes.items() if size >= 1 and count}
    if ones := _gpus_for({size: count for size, count in sizes.items() if 0 < size < 1 and count}, partial):
        whole[1] = whole.get(1, 0) + ones
    for size in sorted(whole, reverse=True):
        count = whole[size]
        for number, free in enumerate(left):
            taken = min(count, free // size)
            left[number] -= taken * size
            count -= taken
            if not count:
                break
        if count:
            return False
    return True


def _gpus_for(shares: Mapping[float, int], partial: Sequence[float]) -> int:
    """Whole GPUs that hold these shares, beside parts of GPUs that are there in any case."""
    bins = list(partial)
    for size in sorted(shares, reverse=True):
        count = shares[size]
        for number, free in enumerate(bins):
            taken = min(count, int(free / size + TINY))
            bins[number] -= taken * size
            count -= taken
        each = int(1 / size + TINY)
        while count > 0:
            taken = min(count, each)
            bins.append(1 - taken * size)
            count -= taken
    return len(bins) - len(partial)


def seconds(asks: Sequence[Ask], counts: Mapping[str, int], cpus: float, shared: float) -> float:
    """When all is done. shared: seconds of a CPU that others need, who have the CPUs that these leave."""
    longest = max((ask.work / counts[ask.name] for ask in asks), default=0.0)
    if shared <= 0:
        return longest
    free = cpus - sum(ask.cpus * counts[ask.name] for ask in asks)
    return max(longest, shared / free) if free > TINY else math.inf


def allot(asks: Sequence[Ask], nodes: Sequence[float], cpus: float, shared: float = 0.0) -> dict[str, int] | None:
    """By name, how many of each; None if even one of each has no room.

    nodes: GPUs of each node. cpus: of all nodes, for these and for those who share what is left (`shared`, see
    `seconds`). GPUs that would be left over go to those who take longest.
    """

    def fits(counts: Mapping[str, int]) -> bool:
        taken = sum(ask.cpus * counts[ask.name] for ask in asks)
        sizes: dict[float, int] = {}
        for ask in asks:
            sizes[ask.gpus] = sizes.get(ask.gpus, 0) + counts[ask.name]
        return taken <= cpus + TINY and packs(sizes, nodes)

    total = sum(nodes)
    free = [ask for ask in asks if ask.count is None]
    times = {ask.work / number for ask in free if ask.work > 0 for number in range(1, _most(ask, total, cpus) + 1)}
    # Beyond the longest of them there is one of each.
    candidates = sorted(times) or [1.0]
    low, high = 0, len(candidates) - 1
    if not fits(best := {ask.name: ask.within(candidates[high]) for ask in asks}):
        return None
    while low < high:
        middle = (low + high) // 2
        counts = {ask.name: ask.within(candidates[middle]) for ask in asks}
        roomy = fits(counts)
        if roomy and seconds(asks, counts, cpus, shared) <= seconds(asks, best, cpus, shared) + TINY:
            best = counts
        # Fewer seconds for these are more for those who share the CPUs: beyond where both are equal nothing is won.
        if roomy and seconds(asks, counts, cpus, shared) <= seconds(asks, counts, cpus, 0) + TINY:
            high = middle
        else:
            low = middle + 1
    return _filled(asks, best, cpus, shared, fits)


def _most(ask: Ask, gpus: float, cpus: float) -> int:
    by_gpus = int(gpus / ask.gpus + TINY) + 1 if ask.gpus > 0 else None
    by_cpus = int(cpus / ask.cpus + TINY) + 1 if ask.cpus > 0 else None
    bounds = [bound for bound in (by_gpus, by_cpus, ask.most) if bound is not None]
    return max(1, min(bounds)) if bounds else 1


def _filled(
    asks: Sequence[Ask], counts: dict[str, int], cpus: float, shared: float, fits: Callable[[Mapping[str, int]], bool]
) -> dict[str, int]:
    """With what is left: one more of the one that takes longest, as long as there is room for any."""
    growing = {ask.name: ask for ask in asks if ask.count is None and ask.gpus > 0 and ask.work > 0}
    while growing:
        ask = max(growing.values(), key=lambda ask: ask.work / counts[ask.name])
        more = {**counts, ask.name: counts[ask.name] + 1}
        roomy = fits(more) and seconds(asks, more, cpus, shared) <= seconds(asks, counts, cpus, shared) + TINY
        if roomy and (ask.most is None or more[ask.name] <= ask.most):
            counts = more
        else:
            del growing[ask.name]
    return counts
