"""How a segment's groups are given their work: which may get parts of a fragment, and how large those are."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ugaf.engine.costs import CHILDREN, cost_of
from ugaf.engine.plan import Group
from ugaf.engine.units import Onward, Size
from ugaf.pipeline.config import INGEST, Pipeline

SPREAD = 16
"""Units that each worker of a pool should get at least, of a run that is small."""


def split_from(pipeline: Pipeline, groups: Sequence[Group]) -> int:
    """The first group of a segment that may be given a part of a fragment."""
    place = {name: number for number, group in enumerate(groups) for name in group.stages}
    first = 1 if any(INGEST in group.stages for group in groups) else 0
    for number, group in enumerate(groups):
        for chain_number, chain in enumerate(group.chains):
            for name in (name for name in chain if name != INGEST):
                cls = pipeline.stage(name).cls
                if cls.peers:
                    first = max(first, number + 1 if chain_number else number)
                for column in {column for columns in cls.refs.values() for column in columns}:
                    first = max(first, place.get(pipeline.providers[column], -1) + 1)
    return first


def level_of(pipeline: Pipeline, group: Group) -> str:
    """The level of the rows that the first stage of a group is given."""
    name = group.stages[0]
    return pipeline.base_level if name == INGEST else pipeline.stage(name).level


def size_of(pipeline: Pipeline, group: Group, workers: int, photographs: int) -> Size:
    """The size of a group's units. photographs: of the run (or pairs), as far as is known."""
    guess = {name: cost_of(pipeline, name, group.lane).seconds for name in group.stages}
    fan_out = level_of(pipeline, group) == "edit" and not pipeline.is_pairs
    rows = photographs * (CHILDREN if fan_out else 1)
    batch = group.spec.batch_rows(group.lane) if group.spec is not None else 1
    return Size(group.stages, guess, batch, max(1, math.ceil(rows / (max(1, workers) * SPREAD))))


def onwards(pipeline: Pipeline, groups: Sequence[Group], sizes: Sequence[Size]) -> list[Onward | None]:
    """What each group of a segment hands on. sizes: of the groups' units."""
    first = split_from(pipeline, groups)
    out: list[Onward | None] = []
    for number, (group, size) in enumerate(zip(groups, sizes, strict=True)):
        if number:
            out.append(Onward(level_of(pipeline, group), size if number >= first else None))
    return [*out, None]
