"""What would run, and on what: decided before anything starts, as pure functions of the pipeline and the machine.

A pipeline is cut into *segments* at its barriers (a stage with quantile rules ends one, since its bounds need the whole
run). A segment is one streaming plan of *groups*; a group is one pool of workers that run neighbouring CPU stages
together, or one stage with workers of its own. Within a group, a stage that needs its whole fragment (peers) starts a
new *chain*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ugaf.config import INGEST, Pipeline, StageSpec
from ugaf.errors import UgafError

MACHINE_SHARE = 0.9
"""Share of the CPUs that plans reserve: Ray Data waits for ever when actor pools take every CPU."""


class FitError(UgafError):
    """A plan that the machine or cluster cannot hold; the message says what is missing."""


@dataclass(frozen=True)
class Machine:
    """CPUs and GPUs in all, and of the largest node."""

    cpus: float
    gpus: float
    node_cpus: float
    node_gpus: float


@dataclass(frozen=True)
class Group:
    """One pool of workers. `chains` are run one after the other in each fragment."""

    chains: tuple[tuple[str, ...], ...]
    spec: StageSpec | None
    """The stage, if it has the pool to itself."""

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(name for chain in self.chains for name in chain)

    @property
    def name(self) -> str:
        return "+".join(self.stages)


@dataclass(frozen=True)
class Pool:
    """A group with its size: `workers` actors that reserve `cpus` and `gpus` each."""

    group: Group
    workers: int
    cpus: float
    gpus: float


def segments(pipeline: Pipeline, until: str | None = None) -> list[list[Group]]:
    """The pipeline as segments of groups, ingest first, ending after the stage `until`."""
    out: list[list[Group]] = []
    groups: list[Group] = []
    chains: list[tuple[str, ...]] = [(INGEST,)]
    specs = list(pipeline.stages)
    if until is not None:
        specs = [] if until == INGEST else specs[: specs.index(pipeline.stage(until)) + 1]
    for spec in specs:
        if spec.own_pool:
            if chains:
                groups.append(Group(tuple(chains), None))
            groups.append(Group(((spec.name,),), spec))
            chains = []
        elif chains and chains[-1] != (INGEST,) and not _needs_commit(pipeline, spec, chains[-1]):
            chains[-1] = (*chains[-1], spec.name)
        else:
            chains.append((spec.name,))
        if spec.has_quantiles:
            out.append([*groups, Group(tuple(chains), None)] if chains else groups)
            groups, chains = [], []
    if chains:
        groups.append(Group(tuple(chains), None))
    if groups:
        out.append(groups)
    return out


def _needs_commit(pipeline: Pipeline, spec: StageSpec, chain: Sequence[str]) -> bool:
    """Peers and referenced rows are read from the store, so what writes them must have ended for the fragment."""
    others = {*spec.cls.peers, *(column for columns in spec.cls.refs.values() for column in columns)}
    return bool(spec.cls.peers) or any(pipeline.providers[column] in chain for column in others)


def size_pools(groups: Sequence[Group], machine: Machine, workers: int | None) -> list[Pool]:
    """How many workers each group gets, and what each reserves.

    Stages with a pool of their own take what their settings say; the CPU groups share the CPUs that are left, one
    worker a CPU unless `workers` says otherwise, at a fraction of a CPU each so that the plan fits.

    Raises:
        FitError: naming the stage and what is missing.
    """
    own = {g.name: _own_pool(g, g.spec, groups, machine) for g in groups if g.spec is not None}
    taken = sum(pool.workers * pool.cpus for pool in own.values())
    shared = [group for group in groups if group.spec is None]
    free = machine.cpus * MACHINE_SHARE - taken
    if free <= 0.01 * len(shared) and (shared or taken > machine.cpus * MACHINE_SHARE + 1e-9):
        wanted = ", ".join(f"{p.group.name}: {p.workers} x {p.cpus:g} CPUs" for p in own.values())
        raise FitError(
            f"the plan does not fit: {wanted} leave no CPU of {machine.cpus:g} for the rest; "
            "set smaller resources.cpus or resources.workers for these stages, or add nodes"
        )
    each = max(1, (workers or max(1, round(machine.cpus - taken))) // max(1, len(shared)))
    fraction = round(min(1.0, free / max(1, each * len(shared))) - 0.005, 2)
    fraction = max(0.01, fraction)
    return [own.get(group.name) or Pool(group, each, fraction, 0.0) for group in groups]


def _fitting(share: float, gpus: float) -> int:
    """How many workers a share of the GPUs holds. A fraction lies on one GPU: two GPUs hold two workers of 0.6."""
    tiny = 1e-9
    whole = int(share + tiny)
    if gpus >= 1:
        return int(whole / gpus + tiny)
    return whole * int(1 / gpus + tiny) + int((share - whole) / gpus + tiny)


def _own_pool(group: Group, spec: StageSpec, groups: Sequence[Group], machine: Machine) -> Pool:
    cpus, gpus = spec.cpus, spec.gpus
    if gpus > machine.node_gpus or cpus > machine.node_cpus:
        raise FitError(
            f"{spec.name}: each worker needs {cpus:g} CPUs and {gpus:g} GPUs on one node; the largest node has "
            f"{machine.node_cpus:g} CPUs and {machine.node_gpus:g} GPUs"
        )
    if spec.resources.workers is not None:
        workers = spec.resources.workers
    elif gpus:
        users = [g.spec for g in groups if g.spec is not None and g.spec.gpus > 0]
        taken = sum(user.gpus * user.resources.workers for user in users if user.resources.workers)
        share = (machine.gpus - taken) / sum(1 for user in users if not user.resources.workers)
        workers = max(1, _fitting(share, gpus))
    else:
        workers = 1
    total = sum((g.spec.resources.workers or 1) * g.spec.gpus for g in groups if g.spec is not None)
    if total > machine.gpus:
        raise FitError(f"the plan does not fit: its stages need {total:g} GPUs, and there are {machine.gpus:g}")
    return Pool(group, workers, cpus, gpus)
