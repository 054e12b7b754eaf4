"""What one call of `ugaf run` is to do: the stages that were asked for, and what of their work is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ugaf.base.errors import ConfigError
from ugaf.columns.survey import Survey
from ugaf.engine.plan import Group, segments
from ugaf.engine.units import Pending, Work
from ugaf.pipeline.config import INGEST, Pipeline

Notify = Callable[[str], None]


@dataclass(frozen=True)
class RunOptions:
    """What a user asks of one call. first, last: stages to run, by name (both given for a single stage). replace: take
    over the folder of another pipeline's run. finish_withdrawal: does what is left of an interrupted one, before all
    else."""

    first: str | None = None
    last: str | None = None
    retry_failed: bool = False
    address: str | None = None
    replace: bool = False
    finish_withdrawal: Callable[[Pipeline, Notify], None] | None = None


@dataclass(frozen=True)
class SegmentWork:
    """What a segment would do: fragments with something pending (and their duplicate ids), the groups that it takes,
    and rows pending by stage as far as can be known before the stages before them have run."""

    groups: list[Group]
    fragments: Work
    pending: dict[str, int]


def pending_work(pipeline: Pipeline, found: Survey, groups: Sequence[Group], options: RunOptions) -> SegmentWork:
    """What is missing in a segment."""
    order = [INGEST, *(spec.name for spec in pipeline.stages)]
    allowed = allowed_stages(pipeline, options)
    kept = [group for group in (_restrict(group, allowed) for group in groups) if group is not None]
    names = [name for group in kept for name in group.stages]
    if not names:
        return SegmentWork([], {}, {})
    work: dict[str, Pending] = {}
    pending = dict.fromkeys(names, 0)
    for fragment, todo in found.todo.items():
        counts = {name: new + (failed if options.retry_failed else 0) for name, (new, failed) in todo.items()}
        for name in counts.keys() & pending.keys():
            pending[name] += counts[name]
            if counts[name]:
                photographs = max(sum(found.todo[fragment].get(INGEST, (0,))), found.photographs.get(fragment, 0))
                work[fragment] = Pending(sorted(found.skips.get(fragment, ())), photographs)
    first = next((order.index(name) for name in names if pending[name]), len(order))
    due = set(order[first:])
    needed = [group for group in (_from(group, due) for group in kept) if group is not None]
    return SegmentWork(needed, work, pending)


def allowed_stages(pipeline: Pipeline, options: RunOptions) -> set[str]:
    order = [INGEST, *(spec.name for spec in pipeline.stages)]
    for name in (options.first, options.last):
        if name is not None and name != INGEST:
            pipeline.stage(name)
    first = order.index(options.first) if options.first else 0
    last = order.index(options.last) if options.last else len(order) - 1
    if first > last:
        raise ConfigError(f"--from {options.first} comes after --until {options.last}")
    return set(order[first : last + 1])


def restricted(pipeline: Pipeline, options: RunOptions) -> list[list[Group]]:
    """All segments with only the stages that were asked for."""
    allowed = allowed_stages(pipeline, options)
    found = [[g for g in (_restrict(group, allowed) for group in groups) if g] for groups in segments(pipeline)]
    return [groups for groups in found if groups]


def _from(group: Group, due: set[str]) -> Group | None:
    """The group without the chains that have nothing to do in any fragment."""
    chains = tuple(chain for chain in group.chains if due.intersection(chain))
    return replace(group, chains=chains) if chains else None


def _restrict(group: Group, allowed: set[str]) -> Group | None:
    """The group with only the allowed stages (a contiguous range of the pipeline)."""
    chains = tuple(tuple(name for name in chain if name in allowed) for chain in group.chains)
    chains = tuple(chain for chain in chains if chain)
    return replace(group, chains=chains) if chains else None
