"""What a stage of the whole run sees of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import pyarrow as pa

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class RunRows(Protocol):
    """The rows of a run: those that the stage measured before, and those that are pending. It can be pickled."""

    @property
    def fragments(self) -> tuple[str, ...]:
        """The fragments that have such rows, in order."""
        ...

    @property
    def counts(self) -> Mapping[str, tuple[int, int]]:
        """Fragment -> rows in all, rows pending."""
        ...

    def has(self, column: str) -> bool:
        """Whether the stage reads this column, and the pipeline has it (for one of its `optional_reads`)."""
        ...

    def table(self, fragment: str, columns: Sequence[str]) -> pa.Table:
        """`id` (string), `pending` (bool) and these columns of a fragment's rows, sorted by id."""
        ...

    def map(self, function: Callable[[Any, Item], Answer], items: Iterable[Item]) -> Iterator[Answer]:
        """function(run, item) of each item, in order: side by side on the CPUs of Ray, or here one after the other.

        function: of a module's top level (it travels by name), or such a one with arguments by functools.partial.
        """
        ...
