"""What would run, and on what: decided before anything starts, as pure functions of the pipeline and the machine.

A pipeline is cut into *segments* at its barriers: a stage with rules that need the whole run ends one, a stage that
compares the rows of the whole run is one by itself, and so is, without `engine.streaming`, every stage with workers of
its own. A segment is one streaming plan of *groups*; a group is one pool of workers that run neighbouring CPU stages
together, or one stage with workers of its own, or one lane of such a stage. Within a group, a stage that needs its
whole fragment (peers) starts a new *chain*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ugaf.base.errors import UgafError
from ugaf.engine.allotment import packs
from ugaf.models.servers import reserved
from ugaf.pipeline.config import INGEST, Pipeline, StageSpec

MACHINE_SHARE = 0.9
"""Share of the CPUs that plans reserve: Ray Data waits for ever when actor pools take every CPU."""


class FitError(UgafError):
    """A plan that the machine or cluster cannot hold; the message says what is missing."""


@dataclass(frozen=True)
class Machine:
    """CPUs and GPUs in all, and of the largest node. nodes: GPUs of each node; () where all are like the largest."""

    cpus: float
    gpus: float
    node_cpus: float
    node_gpus: float
    nodes: tuple[float, ...] = ()

    @property
    def gpu_nodes(self) -> tuple[float, ...]:
        """GPUs of each node that has some."""
        if self.nodes or self.node_gpus <= 0:
            return tuple(gpus for gpus in self.nodes if gpus > 0)
        full = int(self.gpus / self.node_gpus + 1e-9)
        rest = self.gpus - full * self.node_gpus
        return (self.node_gpus,) * full + ((rest,) if rest > 1e-9 else ())

    def without(self, cpus: float, gpus: float) -> Machine:
        """What is left when model servers have taken theirs."""
        return replace(self, cpus=self.cpus - cpus, gpus=self.gpus - gpus)


@dataclass(frozen=True)
class Group:
    """One pool of workers. `chains` are run one after the other in each fragment."""

    chains: tuple[tuple[str, ...], ...]
    spec: StageSpec | None
    """The stage, if it has the pool to itself."""
    lane: str | None = None
    """The lane of it that this is (`Stage.lanes`)."""

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(name for chain in self.chains for name in chain)

    @property
    def whole_run(self) -> bool:
        """Whether it is a stage that compares the rows of the whole run: it has no pool, and its segment to itself."""
        return self.spec is not None and self.spec.cls.whole_run

    @property
    def name(self) -> str:
        return "+".join(self.stages) + (f"[{self.lane}]" if self.lane else "")


@dataclass(frozen=True)
class Pool:
    """A group with its size: `workers` actors that reserve `cpus` and `gpus` each, with `fragments` units at once.
    given: the pipeline says how many."""

    group: Group
    workers: int
    cpus: float
    gpus: float
    fragments: int = 1
    given: bool = False


def segments(pipeline: Pipeline, until: str | None = None) -> list[list[Group]]:
    """The pipeline as segments of groups, ingest first, ending after the stage `until`."""
    out: list[list[Group]] = []
    groups: list[Group] = []
    chains: list[tuple[str, ...]] = [(INGEST,)]
    specs = list(pipeline.stages)
    if until is not None:
        specs = [] if until == INGEST else specs[: specs.index(pipeline.stage(until)) + 1]
    for spec in specs:
        if spec.cls.whole_run:
            last = [*groups, Group(tuple(chains), None)] if chains else groups
            out.extend([last] if last else [])
            out.append([Group(((spec.name,),), spec)])
            groups, chains = [], []
            continue
        if spec.own_pool:
            if chains:
                groups.append(Group(tuple(chains), None))
            groups.extend(Group(((spec.name,),), spec, lane) for lane in spec.lanes or [None])
            chains = []
            if pipeline.settings.engine.streaming is False:
                out.extend([group] for group in groups)
                groups = []
        elif chains and chains[-1] != (INGEST,) and not _needs_commit(pipeline, spec, chains[-1]):
            chains[-1] = (*chains[-1], spec.name)
        else:
            chains.append((spec.name,))
        if spec.needs_fit:
            last = [*groups, Group(tuple(chains), None)] if chains else groups
            out.extend([last] if last else [])
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


def servers_of(groups: Sequence[Group]) -> list[str]:
    """The entries of `models:` that these groups ask."""
    names = (name for group in groups if group.spec is not None for name in group.spec.demand(group.lane).servers)
    return sorted(set(names))


def servers_during(parts: Sequence[Sequence[Group]], number: int, streaming: bool) -> list[str]:
    """The servers that run while this segment does: its own, and those that an earlier one used and a later one will.

    Without streaming a server makes room for the next model: it stays over segments that need neither server nor GPU.
    """
    own = set(servers_of(parts[number]))
    before = {name for part in parts[:number] for name in servers_of(part)}
    later = parts[number + 1 :]
    if streaming:
        return sorted(own | before & {name for part in later for name in servers_of(part)})
    if own or _uses_gpu(parts[number]) or number == 0:
        return sorted(own)
    following = next((part for part in later if servers_of(part) or _uses_gpu(part)), ())
    return sorted({*servers_during(parts, number - 1, streaming)} & {*servers_of(following)})


def _uses_gpu(groups: Sequence[Group]) -> bool:
    return any(group.spec is not None and group.spec.gpus(group.lane) for group in groups)


def left_by_servers(
    machine: Machine, pipeline: Pipeline, names: Sequence[str], replicas: Mapping[str, int] | None = None
) -> Machine:
    """The machine without what the servers that the pipeline starts take. Raises FitError if they do not fit.

    replicas: how many there are of each; of others, as many as their entries say, at least one.
    """
    models = pipeline.settings.models
    for name in names:
        server = models[name]
        if server.is_started and (server.gpus > machine.node_gpus or server.cpus > machine.node_cpus):
            raise FitError(
                f"models.{name}: a server needs {server.cpus:g} CPUs and {server.gpus:g} GPUs on one node; the largest "
                f"node has {machine.node_cpus:g} and {machine.node_gpus:g}. Name one that runs elsewhere: "
                f"--set 'models.{name}.endpoints=[http://HOST:PORT/v1]'"
            )
    cpus, gpus = reserved(models, names, replicas)
    if gpus > machine.gpus or cpus > machine.cpus:
        started = ", ".join(f"models.{name}" for name in names if models[name].is_started)
        raise FitError(
            f"the servers of {started} need {gpus:g} GPUs and {cpus:g} CPUs together, and there are {machine.gpus:g} "
            f"and {machine.cpus:g}; with --set engine.streaming=false those of one stage at a time are enough"
        )
    return machine.without(cpus, gpus)


def size_pools(
    groups: Sequence[Group], machine: Machine, workers: int | None, shares: Mapping[str, int] | None = None
) -> list[Pool]:
    """How many workers each group gets, and what each reserves.

    Stages with a pool of their own take what their settings say, else what `shares` gives them (by name of the group;
    `ugaf.engine.layout`), else one worker. The CPU groups share the CPUs that are left, one worker a CPU unless
    `workers` says otherwise, at a fraction of a CPU each so that the plan fits.

    Raises:
        FitError: naming the stage and what is missing.
    """
    if any(group.whole_run for group in groups):
        if machine.cpus < 1:
            raise FitError(f"{groups[0].name}: its tasks need a CPU each, and model servers leave {machine.cpus:g}")
        return []
    own = {g.name: _own_pool(g, g.spec, groups, machine, shares or {}) for g in groups if g.spec is not None}
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
    return [own.get(group.name) or Pool(group, each, fraction, 0.0, given=workers is not None) for group in groups]


def _own_pool(
    group: Group, spec: StageSpec, groups: Sequence[Group], machine: Machine, shares: Mapping[str, int]
) -> Pool:
    cpus, gpus, given = spec.cpus(group.lane), spec.gpus(group.lane), spec.workers(group.lane)
    if gpus > machine.node_gpus or cpus > machine.node_cpus:
        hint = spec.demand(group.lane).without_gpu
        raise FitError(
            f"{group.name}: each worker needs {cpus:g} CPUs and {gpus:g} GPUs on one node; the largest node has "
            f"{machine.node_cpus:g} CPUs and {machine.node_gpus:g} GPUs"
            + (f". Without a GPU: --set {spec.name}.{hint}" if hint and gpus > machine.node_gpus else "")
        )
    users = [
        (g.spec.gpus(g.lane), g.spec.workers(g.lane) or shares.get(g.name, 1)) for g in groups if g.spec is not None
    ]
    total = sum(gpus * count for gpus, count in users)
    sizes: Counter[float] = Counter()
    for gpus_of, count in users:
        sizes[gpus_of] += count
    if total > machine.gpus + 1e-9 or not packs(sizes, [machine.gpus]):
        raise FitError(
            f"the plan does not fit: its stages need {total:g} GPUs, and there are {machine.gpus:g} that no model "
            "server takes (a worker's share lies on one GPU); with --set engine.streaming=false they run one after the "
            "other"
        )
    workers = given or shares.get(group.name, 1)
    return Pool(group, workers, cpus, gpus, spec.demand(group.lane).fragments, given is not None)
