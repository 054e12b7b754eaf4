"""Category balance: how many rows of each category a run keeps, what it lacks to a target, and a sample that meets it.

Curation by quality skews a set towards what is easy: FireRed-Image-Edit (arXiv 2602.13344, sections 2.1 and 3.4)
therefore balances its categories and looks after the long tail. `categories` says which category a row belongs to,
`shares` is the arithmetic (pure functions of counts: targets, gaps, quotas, long-tail numbers), `sampling` takes each
category's quota by a hash of the row ids. The report shows the first two, an export applies all three.
"""

from __future__ import annotations

from ugaf.balance.categories import Category, Census, check
from ugaf.balance.sampling import Sample, draw
from ugaf.balance.settings import OTHER, BalanceSettings
from ugaf.balance.shares import Account, Line, Tail, account, quotas

__all__ = [
    "OTHER",
    "Account",
    "BalanceSettings",
    "Category",
    "Census",
    "Line",
    "Sample",
    "Tail",
    "account",
    "check",
    "draw",
    "quotas",
]
