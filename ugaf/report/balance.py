"""The kept rows of a run by its category columns, against the target of its export or, without one, equal shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from ugaf.balance import Account, BalanceSettings, Category, Census, account

if TYPE_CHECKING:
    from ugaf.columns.view import RunView

FIRST = ("task", "target", "source", "register", "engine", "editor")
"""Columns that are shown before all others."""

MAX_CATEGORIES = 20_000
"""A column with more categories than this is free text, as is one with nearly a different value in each row."""


@dataclass(frozen=True)
class ColumnBalance:
    """One column. asked: its target is that of the pipeline's export; else it is equal shares."""

    by: str
    level: str
    settings: BalanceSettings
    account: Account
    asked: bool


def column_balances(view: RunView, level: str, schema: pa.Schema, free_text: frozenset[str]) -> list[ColumnBalance]:
    """The balance of each category column that the kept rows of a level have, in one reading of these columns.

    Args:
        schema: the columns of the level's rows. free_text: texts that are no categories (ids, reasons, instructions).
    """
    asked = view.pipeline.settings.export.balance if level == "edit" else None
    names = [name for name in schema.names if name not in free_text and _is_category(schema.field(name).type)]
    names += ["source"] if "sources" in schema.names else []
    names = [name for name in FIRST if name in names] + [name for name in names if name not in FIRST]
    order = list(dict.fromkeys([*([asked.by] if asked is not None else []), *names]))
    censuses = {by: Census(Category.of(by, [*schema.names])) for by in order} if schema.names else {}
    columns = list(dict.fromkeys(census.category.column for census in censuses.values()))
    for table in view.rows(level, columns, kept=True) if censuses else ():
        for census in censuses.values():
            if len(census.names) <= MAX_CATEGORIES:
                census.add(table.column(census.category.column))
    out = []
    for by, census in censuses.items():
        counts = census.counts()
        is_asked = asked is not None and asked.by == by
        if is_asked or _is_varied(census, counts):
            settings = asked if asked is not None and is_asked else BalanceSettings(by=by)
            out.append(ColumnBalance(by, level, settings, account(counts, settings), is_asked))
    return out


def _is_varied(census: Census, counts: dict[str, int]) -> bool:
    """Whether it has several categories, and these are more than the rows one by one."""
    several = len(counts) >= 2 and len(census.names) <= MAX_CATEGORIES
    return several and not (len(counts) > 12 and len(counts) > sum(counts.values()) / 3)


def _is_category(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_boolean(kind)
