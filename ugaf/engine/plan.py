"""What would run, and on what: decided before anything starts, as pure functions of the pipeline and the machine.

A pipeline is cut into *segments* at its barriers: a stage with rules that need the whole run ends one, a stage that
compares the rows of the whole run is one by itself, and so is, without `engine.streaming`, every stage with workers of
its own. A segment is one streaming plan of *groups*; a group is one pool of workers that run neighbouring CPU stages
together, or one stage with workers of its own, or one lane of such a stage. Within a group, a stage that needs its
whole fragment (peers) starts a new *chain*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ugaf.base.errors import UgafError
from ugaf.models.servers import reserved
from ugaf.pipeline.config import INGEST, Pipeline, StageSpec

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
            if not pipeline.settings.engine.streaming:
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


def left_by_servers(machine: Machine, pipeline: Pipeline, names: Sequence[str]) -> Machine:
    """The machine without what the servers that the pipeline starts take. Raises FitError if they do not fit."""
    models = pipeline.settings.models
    for name in names:
        server = models[name]
        if server.is_started and (server.gpus > machine.node_gpus or server.cpus > machine.node_cpus):
            raise FitError(
                f"models.{name}: a server needs {server.cpus:g} CPUs and {server.gpus:g} GPUs on one node; the largest "
                f"node has {machine.node_cpus:g} and {machine.node_gpus:g}. Name one that runs elsewhere: "
                f"--set 'models.{name}.endpoints=[http://HOST:PORT/v1]'"
            )
    cpus, gpus = reserved(models, names)
    if gpus > machine.gpus or cpus > machine.cpus:
        started = ", ".join(f"models.{name}" for name in names if models[name].is_started)
        raise FitError(
            f"the servers of {started} need {gpus:g} GPUs and {cpus:g} CPUs together, and there are {machine.gpus:g} "
            f"and {machine.cpus:g}; with --set engine.streaming=false those of one stage at a time are enough"
        )
    return machine.without(cpus, gpus)


def size_pools(groups: Sequence[Group], machine: Machine, workers: int | None) -> list[Pool]:
    """How many workers each group gets, and what each reserves.

    Stages with a pool of their own take what their settings say; the CPU groups share the CPUs that are left, one
    worker a CPU unless `workers` says otherwise, at a fraction of a CPU each so that the plan fits.

    Raises:
        FitError: naming the stage and what is missing.
    """
    if any(group.whole_run for group in groups):
        if machine.cpus < 1:
            raise FitError(f"{groups[0].name}: its tasks need a CPU each, and model servers leave {machine.cpus:g}")
        return []
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
    return [own.get(group.name) or Pool(group, each, fraction, 0.0, given=workers is not None) for group in groups]


def _fitting(share: float, gpus: float) -> int:
    """How many workers a share of the GPUs holds. A fraction lies on one GPU: two GPUs hold two workers of 0.6."""
    tiny = 1e-9
    whole = int(share + tiny)
    if gpus >= 1:
        return int(whole / gpus + tiny)
    return whole * int(1 / gpus + tiny) + int((share - whole) / gpus + tiny)


def _packs(shares: Sequence[float], gpus: float) -> bool:
    """Whether workers of these shares have room: a fraction lies on one GPU (first fit, the largest first)."""
    left = [1.0] * int(gpus + 1e-9) + ([gpus % 1] if gpus % 1 > 1e-9 else [])
    whole = sum(round(share) for share in shares if share >= 1)
    left = left[whole:] if whole <= len(left) else []
    for share in sorted((share for share in shares if 0 < share < 1), reverse=True):
        place = next((number for number, free in enumerate(left) if free >= share - 1e-9), None)
        if place is None:
            return False
        left[place] -= share
    return whole <= gpus + 1e-9


def _own_pool(group: Group, spec: StageSpec, groups: Sequence[Group], machine: Machine) -> Pool:
    cpus, gpus, given = spec.cpus(group.lane), spec.gpus(group.lane), spec.workers(group.lane)
    if gpus > machine.node_gpus or cpus > machine.node_cpus:
        hint = spec.demand(group.lane).without_gpu
        raise FitError(
            f"{group.name}: each worker needs {cpus:g} CPUs and {gpus:g} GPUs on one node; the largest node has "
            f"{machine.node_cpus:g} CPUs and {machine.node_gpus:g} GPUs"
            + (f". Without a GPU: --set {spec.name}.{hint}" if hint and gpus > machine.node_gpus else "")
        )
    users = [_Share(g.spec.gpus(g.lane), g.spec.workers(g.lane)) for g in groups if g.spec is not None]
    if given is not None:
        workers = given
    elif gpus:
        taken = sum(user.gpus * user.workers for user in users if user.workers)
        share = (machine.gpus - taken) / sum(1 for user in users if user.gpus and not user.workers)
        workers = max(1, _fitting(share, gpus))
    else:
        workers = 1
    total = sum((user.workers or 1) * user.gpus for user in users)
    if total > machine.gpus or not _packs(
        [user.gpus for user in users for _ in range(user.workers or 1)], machine.gpus
    ):
        raise FitError(
            f"the plan does not fit: its stages need {total:g} GPUs, and there are {machine.gpus:g} that no model "
            "server takes (a worker's share lies on one GPU); with --set engine.streaming=false they run one after the "
            "other"
        )
    return Pool(group, workers, cpus, gpus, spec.demand(group.lane).fragments, given is not None)


@dataclass(frozen=True)
class _Share:
    """What a pool asks of the GPUs: gpus a worker, and the number of workers where it is given."""

    gpus: float
    workers: int | None
