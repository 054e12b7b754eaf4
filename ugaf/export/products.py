"""What a run can export: its pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ugaf.view import RunView


@dataclass(frozen=True)
class Product:
    """root: the folder of the run that it lies in. noun: what its rows are, in the plural."""

    root: str
    noun: str


PAIRS = Product("shards", "pairs")


def products(view: RunView) -> list[Product]:  # noqa: ARG001
    """What this run exports."""
    return [PAIRS]
