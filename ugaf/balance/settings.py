"""What a user may set about balance."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ugaf.base.errors import nearest
from ugaf.base.settings import Settings

OTHER = "other"
"""In a target: all categories that it does not name, together, each by its own rows."""

NATURAL, UNIFORM = "natural", "uniform"


class BalanceSettings(Settings):
    """By which category pairs are counted, which shares are wanted, and whether the export is sampled to meet them."""

    by: str = Field(
        description="what pairs are counted by: a column of texts, booleans or whole numbers, a list of texts, "
        "objects.label, or source (the kind of place that the photograph was read from)"
    )
    target: str | dict[str, float] | None = Field(
        None,
        description="the shares wanted: uniform, natural (as they are kept), or weights by category, other for all "
        "that are not named; default: uniform, or what temperature gives",
    )
    temperature: float | None = Field(
        None,
        ge=1,
        description="shares in proportion to n^(1/temperature) of a category's n pairs: 1 is natural",
    )
    mode: Literal["none", "downsample"] = Field(
        "none", description="none: the card states the gaps; downsample: the largest part that meets the target"
    )
    max_per_category: int | None = Field(None, ge=1, description="most pairs of a category")
    min_rows: int = Field(
        0, ge=0, description="a category with fewer pairs is the tail: all of it is exported, and it limits no other"
    )
    seed: int = Field(0, description="another number draws another sample")

    @field_validator("target", mode="before")
    @classmethod
    def _readable_target(cls, target: Any) -> Any:
        if isinstance(target, str) and target not in (NATURAL, UNIFORM):
            raise ValueError(
                f"write natural, uniform or weights such as {{add: 0.2}}{nearest(target, (NATURAL, UNIFORM))}"
            )
        if not isinstance(target, dict):
            return target
        for name, weight in target.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float):
                raise ValueError(f"the weight of {name} is {weight!r}; write a number")
        # YAML reads `true`, `3` and `null` as what they are; categories are texts.
        return {category_text(name): weight for name, weight in target.items()}

    @field_validator("target")
    @classmethod
    def _usable_weights(cls, target: Any) -> Any:
        if isinstance(target, dict):
            for name, weight in target.items():
                if not (math.isfinite(weight) and weight >= 0):
                    raise ValueError(f"the weight of {name} is {weight}; weights are 0 or more")
            if not sum(target.values()):
                raise ValueError("no category has a weight above 0")
        return target

    @model_validator(mode="after")
    def _one_target(self) -> BalanceSettings:
        if self.temperature is not None and self.target not in (None, NATURAL):
            raise ValueError("temperature makes the target out of the natural shares: leave one of the two out")
        return self


MISSING = "(none)"
"""The category of rows whose value is null or empty."""


def category_text(value: Any) -> str:
    """A value as the name of its category: booleans as in YAML, null and the empty text as `(none)`."""
    if value is None or value == "":
        return MISSING
    return str(value).lower() if isinstance(value, bool) else str(value)
