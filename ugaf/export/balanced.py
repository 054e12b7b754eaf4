"""What a balance does to an export: which kept pairs it takes, and what the card says of it.

Only pairs that can be exported are counted: one whose donor is in the other split takes nobody's place. A pair's split
is decided as without a balance, and pairs are taken without regard to it, so both splits have about the same shares.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ugaf import balance as arithmetic
from ugaf.balance import OTHER, Account, BalanceSettings, Category, Census, Sample, sampling
from ugaf.balance.settings import NATURAL
from ugaf.base.errors import UgafError
from ugaf.export import split
from ugaf.pipeline.settings import ExportSettings

if TYPE_CHECKING:
    from ugaf.columns.view import RunView

PREFIX = "balance: "
MAX_REASONS = 12
"""Categories that are named in what is left out; of more, the others are counted together."""


@dataclass(frozen=True)
class Balance:
    """The balance of one run's pairs. sample: None where every one is taken."""

    settings: BalanceSettings
    category: Category
    census: Census
    account: Account
    sample: Sample | None

    def sampled(self) -> Any:
        """What decides which rows are taken, as plain data; None where all of them are."""
        return None if self.sample is None else [self.settings.by, self.sample.seed, dict(self.sample.cuts)]

    def takes(self, table: pa.Table) -> tuple[np.ndarray, list[str]]:
        """Whether each row of a table is taken, bool (n,), and its category."""
        categories = self.census.of(table.column(self.category.column))
        if self.sample is None:
            return np.ones(table.num_rows, bool), categories
        return self.sample.takes(table.column("id").to_pylist(), categories), categories

    def reason(self, category: str) -> str:
        return f"{PREFIX}{self.settings.by} {category}"


class Counting:
    """Counts the kept pairs of a run, table by table; 12 bytes a pair."""

    def __init__(self, view: RunView, settings: ExportSettings) -> None:
        assert settings.balance is not None
        self.view = view
        self.settings = settings.balance
        self.validation = settings.validation
        self.category = Category.of(self.settings.by, view.pipeline.providers)
        self.census = Census(self.category)
        self._hashes: list[np.ndarray] = []

    def add(self, table: pa.Table) -> None:
        table = table.filter(pa.array(eligible(table, self.validation)))
        self.census.add(table.column(self.category.column))
        self._hashes.append(sampling.ranks(table.column("id").to_pylist(), self.settings.seed))

    def result(self) -> Balance:
        """The balance of all that was added. Raises UgafError where the target names no category of the run."""
        counts = self.census.counts()
        check_names(self.view, self.settings, self.category, counts)
        quotas = arithmetic.quotas(counts, self.settings)
        account = arithmetic.account(counts, self.settings)
        sample = None
        if any(quotas[name] < count for name, count in counts.items()):
            hashes = np.concatenate(self._hashes)
            sample = arithmetic.draw(self.census.names, self.census.rows, hashes, quotas, self.settings.seed)
        return Balance(self.settings, self.category, self.census, account, sample)


def eligible(table: pa.Table, validation: float) -> np.ndarray:
    """Which pairs have a split, bool (n,): those without a donor, or with one in the split of their photograph."""
    out = np.ones(table.num_rows, bool)
    if "donor" in table.column_names and "parent" in table.column_names:
        pairs = zip(table.column("parent").to_pylist(), table.column("donor").to_pylist(), strict=True)
        for number, (parent, donor) in enumerate(pairs):
            out[number] = donor is None or split.of_edit(parent, donor, validation) is not None
    return out


def check_names(view: RunView, settings: BalanceSettings, category: Category, counts: Mapping[str, int]) -> None:
    """Raises UgafError for a category of the target that no row of the run has, kept or not, with the nearest one."""
    named = [name for name in settings.target if name != OTHER] if isinstance(settings.target, dict) else []
    unknown = [name for name in named if name not in counts]
    if not unknown:
        return
    census = Census(category)
    for table in view.rows("edit", [category.column]):
        census.add(table.column(category.column))
    known = {**census.counts(), **counts}
    for name in unknown:
        if name not in census.names:
            raise UgafError(
                f"export.balance.target: no row of the run is of {settings.by} {name!r}{_nearest(name, known)}"
            )


def _nearest(name: str, known: Mapping[str, int]) -> str:
    frequent = sorted(known, key=lambda other: (-known[other], other))
    close = difflib.get_close_matches(name, frequent[:5000], n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    more = f" and {len(frequent) - 20:,} more" if len(frequent) > 20 else ""
    return f"; it has {', '.join(frequent[:20])}{more}" if frequent else ""


def folded(left_out: Mapping[str, int]) -> dict[str, int]:
    """Pairs left out by reason; of a balance by very many categories, the largest by name and the others together."""
    own = Counter({reason: count for reason, count in left_out.items() if reason.startswith(PREFIX)})
    rest = {reason: count for reason, count in left_out.items() if reason not in own}
    if len(own) <= MAX_REASONS:
        return {**rest, **own}
    named = own.most_common(MAX_REASONS - 1)
    others = sum(own.values()) - sum(count for _, count in named)
    return {**rest, **dict(named), f"{PREFIX}{len(own) - len(named):,} other categories": others}


def described(settings: BalanceSettings) -> str:
    """The target and what the export does about it, in sentences."""
    if isinstance(settings.target, dict):
        target = "the shares below" + ("" if OTHER in settings.target else "; categories without one are not asked for")
    elif settings.temperature is not None:
        target = f"shares in proportion to n^(1/{settings.temperature:g})"
    else:
        target = "the natural shares" if settings.target == NATURAL else "the same share for each"
    if settings.mode == "downsample":
        action = "the largest part of the pairs that meets it was taken"
    else:
        action = "no pair was left out for it"
    if settings.max_per_category is not None:
        action += f"; at most {settings.max_per_category:,} of a category"
    if settings.min_rows and settings.mode == "downsample":
        action += f"; categories with fewer than {settings.min_rows:,} were taken whole"
    return f"Target: {target}; {action}. Pairs are taken by a hash of seed {settings.seed} and id."


def summary(lines: Iterable[arithmetic.Line]) -> str:
    """The gaps in a few words, largest first: "add lacks 12, style lacks 3"."""
    short = sorted((line for line in lines if line.gap < 0), key=lambda line: (line.gap, line.category))
    text = ", ".join(f"{line.category} lacks {-line.gap:,}" for line in short[:5])
    return text + (f" and {len(short) - 5} more" if len(short) > 5 else "")
