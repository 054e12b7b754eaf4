"""What a column is, said once by the stage that writes it: its type, what it means, and where its values end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

Range = tuple[float, float | None]

_TYPES: dict[type, pa.DataType] = {float: pa.float64(), int: pa.int64(), bool: pa.bool_(), str: pa.string()}


@dataclass(frozen=True)
class Column:
    """One of the columns that a stage `writes`.

    type: of its values, which may be null. float, int, bool and str stand for Arrow's float64, int64, bool and string.
    about: what it says, in some words, with its unit; shown by `ugaf stages`, and begins its line in docs/stages.md.
    range: a number's least and greatest value, None where it has no end; a keep rule beyond it is told.
    text: it is told in words, so that its values are read and not counted.
    """

    type: Any
    about: str = ""
    range: Range | None = None
    text: bool = False

    def __post_init__(self) -> None:
        type_ = _TYPES.get(self.type, self.type)
        if not isinstance(type_, pa.DataType):
            raise TypeError(f"a column's type is float, int, bool, str or one of Arrow's, not {self.type!r}")
        object.__setattr__(self, "type", type_)


def columns_of(given: Any) -> dict[str, Column]:
    """What a class says in `writes`: name -> Column or a type, or an Arrow schema. Raises TypeError for others."""
    if isinstance(given, pa.Schema):
        return {field.name: Column(field.type) for field in given}
    if not isinstance(given, Mapping):
        raise TypeError(f"writes: a mapping of columns by name, not {given!r}")
    return {name: value if isinstance(value, Column) else Column(value) for name, value in given.items()}
