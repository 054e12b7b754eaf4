"""Balance as arithmetic on counts: target shares, gaps, quotas and long-tail numbers.

Shares are whole-number weights over their sum, so that nothing depends on how floats are rounded, and quotas are exact:
with weights w (sum W) and n rows of each category, the largest total that meets the target without more rows is
N = min n W // w, and N is divided by largest remainders, which gives no category more than it has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from ugaf.balance.settings import NATURAL, OTHER, BalanceSettings
from ugaf.base.errors import UgafError

Counts = Mapping[str, int]


@dataclass(frozen=True)
class Line:
    """One category. share, target: 0..1, of all rows. taken: rows of it in the sample (all of them if none is drawn).

    gap: rows that it has beyond its part of the present total, by largest remainders; below 0 it lacks so many. The
    gaps of all categories add up to 0. tail: it has fewer than `min_rows` rows.
    """

    category: str
    rows: int
    share: float
    target: float
    gap: int
    tail: bool
    taken: int


@dataclass(frozen=True)
class Tail:
    """Long-tail numbers over the categories that have rows.

    Attributes:
        categories: how many there are.
        effective: exp of the Shannon entropy of their shares, 1..categories: so many equal ones would be as varied
            (the Hill number of order 1).
        largest: share of the largest category, 0..1.
        half: how many of the largest categories hold half of all rows.
        gini: Gini coefficient of the counts, 0 (all equal) up to 1 - 1/categories (one has nearly all).
        below: how many have fewer than `min_rows` rows, those that only the target names among them.
    """

    categories: int
    effective: float
    largest: float
    half: int
    gini: float
    below: int


@dataclass(frozen=True)
class Account:
    """What a run keeps by category against a target.

    lines: most rows first. reachable: the largest total that meets the target without more rows, the tail apart.
    """

    lines: tuple[Line, ...]
    rows: int
    reachable: int
    tail: Tail

    @property
    def taken(self) -> int:
        return sum(line.taken for line in self.lines)


def account(counts: Counts, settings: BalanceSettings) -> Account:
    """Count against the target. `counts`: rows by category; those that only the target names are added with 0."""
    full = with_named(counts, settings)
    rows = sum(full.values())
    weights = target_weights(full, settings)
    whole = sum(weights.values())
    wanted = apportion(rows, weights)
    small = tail_of(full, weights, settings)
    held = {name: weight for name, weight in weights.items() if name not in small}
    taken = _quotas(full, settings) or {}
    lines = [
        Line(
            category=name,
            rows=count,
            share=count / rows if rows else 0.0,
            target=weights[name] / whole if whole else 0.0,
            gap=count - wanted[name],
            tail=name in small,
            taken=taken.get(name, 0),
        )
        for name, count in sorted(full.items(), key=lambda item: (-item[1], item[0]))
    ]
    below = sum(count < settings.min_rows for count in full.values())
    return Account(tuple(lines), rows, reachable(full, held), tail_numbers(counts, below))


def quotas(counts: Counts, settings: BalanceSettings) -> dict[str, int]:
    """Rows to take of each category. Raises UgafError where the target asks for a category that has none."""
    full = with_named(counts, settings)
    found = _quotas(full, settings)
    if found is None:
        weights = target_weights(full, settings)
        small = tail_of(full, weights, settings)
        empty = [name for name, weight in weights.items() if weight and not full[name] and name not in small]
        raise UgafError(
            f"export.balance.target: no kept pair is of {settings.by} {', '.join(empty)}, so no number of pairs meets "
            "the target: take it out of the target, or set min_rows: 1 to balance only the categories that have pairs"
        )
    return found


def _quotas(full: Counts, settings: BalanceSettings) -> dict[str, int] | None:
    """Rows to take of each category; None where a category of the target has none, so that no total meets it."""
    cap = settings.max_per_category
    capped = {name: count if cap is None else min(count, cap) for name, count in full.items()}
    if settings.mode == "none":
        return capped
    weights = target_weights(full, settings)
    small = tail_of(full, weights, settings)
    held = {name: weight for name, weight in weights.items() if name not in small}
    total = reachable(capped, held)
    if not total and any(full[name] for name in held):
        return None
    return {**apportion(total, held), **{name: capped[name] for name in small}}


def with_named(counts: Counts, settings: BalanceSettings) -> dict[str, int]:
    """The counts, with a 0 for each category that only the target names (and for `other` if nothing is left for it)."""
    named = settings.target if isinstance(settings.target, dict) else {}
    full = {**{name: 0 for name in named if name != OTHER}, **counts}
    if named.get(OTHER) and not _others(full, named):
        full[OTHER] = 0
    return full


def target_weights(counts: Counts, settings: BalanceSettings) -> dict[str, int]:
    """The target as whole-number weights of the categories in `counts`."""
    target = settings.target
    if isinstance(target, dict):
        return _whole(_named_weights(counts, target))
    if settings.temperature is not None:
        # 12 digits: a power's last bit differs between machines.
        powers = {name: n ** (1 / settings.temperature) if n else 0.0 for name, n in counts.items()}
        return _whole({name: Fraction(f"{power:.12g}") for name, power in powers.items()})
    return dict(counts) if target == NATURAL else dict.fromkeys(counts, 1)


def _named_weights(counts: Counts, target: Mapping[str, float]) -> dict[str, Fraction]:
    """A category that is not named has its part of `other` by its own rows, and none where there is no `other`."""
    others = _others(counts, target)
    rows = sum(counts[name] for name in others)
    rest = Fraction(repr(float(target.get(OTHER, 0))))
    weights = {name: Fraction(repr(float(target[name]))) for name in counts if name in target and name != OTHER}
    for name in others:
        weights[name] = rest * Fraction(counts[name], rows) if rows else rest / len(others)
    return {name: weights[name] for name in counts}


def _others(counts: Counts, target: Mapping[str, float]) -> list[str]:
    """Categories that are not named by themselves; one that is called `other` is among them."""
    return [name for name in counts if name not in target or name == OTHER]


def _whole(weights: Mapping[str, Fraction]) -> dict[str, int]:
    scale = math.lcm(*(weight.denominator for weight in weights.values()))
    return {name: int(weight * scale) for name, weight in weights.items()}


def tail_of(counts: Counts, weights: Mapping[str, int], settings: BalanceSettings) -> set[str]:
    """Categories below the floor that the target asks for."""
    return {name for name, count in counts.items() if count < settings.min_rows and weights[name]}


def reachable(counts: Counts, weights: Mapping[str, int]) -> int:
    """The largest total at which each category has its share of it: min n W // w; 0 without weights."""
    whole = sum(weights.values())
    return min((counts[name] * whole // weight for name, weight in weights.items() if weight), default=0)


def apportion(total: int, weights: Mapping[str, int]) -> dict[str, int]:
    """`total` in proportion to the weights by largest remainders (Hamilton); equal remainders by name."""
    whole = sum(weights.values())
    if not whole:
        return dict.fromkeys(weights, 0)
    parts = {name: divmod(total * weight, whole) for name, weight in weights.items()}
    shares = {name: part for name, (part, _) in parts.items()}
    left = total - sum(shares.values())
    for name in sorted(parts, key=lambda name: (-parts[name][1], name))[:left]:
        shares[name] += 1
    return shares


def tail_numbers(counts: Counts, below: int = 0) -> Tail:
    """Long-tail numbers of the categories that have rows."""
    found = sorted(count for count in counts.values() if count)
    rows, n = sum(found), len(found)
    if not n:
        return Tail(0, 0.0, 0.0, 0, 0.0, below)
    entropy = -math.fsum(count / rows * math.log(count / rows) for count in found)
    ranked = sum((2 * rank - n - 1) * count for rank, count in enumerate(found, 1))
    half, held = 0, 0
    while 2 * held < rows:
        held += found[n - 1 - half]
        half += 1
    return Tail(n, math.exp(entropy), found[-1] / rows, half, ranked / (n * rows), below)
