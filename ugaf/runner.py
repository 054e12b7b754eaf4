"""One run from beginning to end: cut fragments, run what is pending segment by segment, write shards and report.

Resuming after a crash, adding photographs and loosening a threshold are this same function: it does what is missing.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import yaml

from ugaf import __version__, faults, rules
from ugaf.across import rows_of, run_stage
from ugaf.columns import SOURCES, Columns
from ugaf.config import INGEST, Pipeline
from ugaf.engine import MakeTask, RayEngine, run_inline
from ugaf.errors import ConfigError
from ugaf.fitting import fit
from ugaf.ingest import SourceRef, list_sources
from ugaf.models.servers import ServerLink
from ugaf.monitor import Monitor
from ugaf.needs import install_hint
from ugaf.plan import Group, segments, servers_during, servers_of
from ugaf.session import Session, cluster_address
from ugaf.storage import Storage, ahead, parquet_bytes
from ugaf.verdicts import FAILED, Fits, duplicates, judge_all
from ugaf.versions import package_versions
from ugaf.view import RUN_FILE
from ugaf.worker import Task

Notify = Callable[[str], None]


@dataclass(frozen=True)
class RunOptions:
    """What a user asks of one call. first, last: stages to run, by name (both given for a single stage)."""

    first: str | None = None
    last: str | None = None
    retry_failed: bool = False
    address: str | None = None


@dataclass(frozen=True)
class Survey:
    """A run as it is stored now. skips: see `duplicates`. fits: see `fit`. todo: fragment -> stage -> rows that the
    stage has yet to see, and rows that failed in it; without those where both are none."""

    skips: dict[str, set[str]]
    fits: Fits
    todo: dict[str, dict[str, tuple[int, int]]]


@dataclass(frozen=True)
class SegmentWork:
    """What a segment would do: fragments with something pending (and their duplicate ids), the groups that it takes,
    and rows pending by stage as far as can be known before the stages before them have run."""

    groups: list[Group]
    fragments: dict[str, list[str]]
    pending: dict[str, int]


def run(pipeline: Pipeline, options: RunOptions, progress: Any, notify: Notify) -> None:
    """Do all that is pending. `progress` gets a Monitor snapshot a few times a second, `notify` a line now and then."""
    allowed = _allowed(pipeline, options)
    faults.set_patience(pipeline.settings.engine.patience_s, notify)
    _check_output(pipeline, options)
    columns = Columns(Storage(pipeline.output), pipeline)
    added = cut(columns) if INGEST in allowed else 0
    if added:
        notify(f"{added} new sources")
    found = survey(columns)
    save_record(columns, found.fits)
    inline = pipeline.settings.engine.executor == "inline"
    parts = restricted(pipeline, options)
    with ExitStack() as stack:
        engine: RayEngine | None = None
        servers: RunningServers | None = None
        on_cluster = cluster_address(options.address) is not None
        for number, groups in enumerate(parts):
            work = pending_work(pipeline, found, groups, options)
            if not work.fragments or not work.groups:
                continue
            if servers is None:
                _check_installed(pipeline, [group for part in parts[number:] for group in part], options)
                if not inline:
                    stack.enter_context(Session(options.address))
                    engine = RayEngine()
                    engine.check([work.groups, *parts[number + 1 :]], pipeline)
                servers = stack.enter_context(RunningServers(pipeline, on_cluster, notify))
            servers.keep_only(servers_during(parts, number, pipeline.settings.engine.streaming))
            links = servers.need(servers_of(work.groups), on_ray=not inline)
            make_task = _task_maker(columns, found.fits, options, links)
            if work.groups[0].whole_run:
                _run_whole(columns, found, work.groups[0], options, engine, progress)
            elif engine is None:
                monitor = Monitor()
                run_inline(work.groups, make_task, work.fragments, monitor)
                for line in monitor.news():
                    notify(line)
            else:
                engine.run(work.groups, make_task, work.fragments, pipeline, servers.names, progress)
                for line in engine.news():
                    notify(line)
            found = survey(columns)
            save_record(columns, found.fits)


def _run_whole(
    columns: Columns, found: Survey, group: Group, options: RunOptions, engine: RayEngine | None, progress: Any
) -> None:
    """One stage that compares the rows of the whole run."""
    assert group.spec is not None
    rows = rows_of(columns, group.spec, columns.fragments(), found.skips, found.fits, options.retry_failed)
    seed = columns.pipeline.settings.seed
    if engine is None:
        run_stage(rows, seed)
    else:
        engine.run_whole(rows, seed, progress)


class RunningServers:
    """The model servers of a run: started when a segment needs them, stopped when they are in the way or of no use."""

    def __init__(self, pipeline: Pipeline, on_cluster: bool, notify: Notify) -> None:
        self._models = pipeline.settings.models
        self._on_cluster = on_cluster
        self._notify = notify
        self._links: dict[str, ServerLink] = {}
        self._handles: dict[str, Any] = {}

    def __enter__(self) -> RunningServers:
        return self

    def __exit__(self, *_: object) -> None:
        self.keep_only(())

    @property
    def names(self) -> list[str]:
        """Those that run now."""
        return sorted(self._links)

    def need(self, names: Sequence[str], on_ray: bool) -> dict[str, ServerLink]:
        """Links to these servers; those that the pipeline has to start are started side by side, and healthy."""
        from ugaf.models.servers.supervisor import begin_servers

        new = [name for name in names if name not in self._links]
        if new:
            links, handles = begin_servers(self._models, new, on_ray, self._notify, self._on_cluster)
            self._links.update(links)
            self._handles.update(handles)
        return {name: self._links[name] for name in names}

    def keep_only(self, names: Collection[str]) -> None:
        """Stop all others."""
        from ugaf.models.servers.supervisor import stop_servers

        unused = [name for name in self._links if name not in names]
        for name in unused:
            del self._links[name]
        handles = {name: self._handles.pop(name) for name in unused if name in self._handles}
        if handles:
            stop_servers(handles, self._notify)


def _check_installed(pipeline: Pipeline, groups: Sequence[Group], options: RunOptions) -> None:
    """On this machine, that the libraries of the chosen models are there; a cluster's workers look for themselves."""
    if cluster_address(options.address):
        return
    for name in (name for group in groups for name in group.stages if name != INGEST):
        missing = pipeline.stage(name).needs.missing()
        if missing:
            raise ConfigError(f"{name}: {install_hint(missing)}")


def survey(columns: Columns) -> Survey:
    """Read the whole run once (and once more for each stage with quantile rules)."""
    fragments = columns.fragments()
    skips = duplicates(columns, fragments)
    fits = fit(columns, fragments, skips)
    todo: dict[str, dict[str, tuple[int, int]]] = {}
    for verdicts in judge_all(columns, fragments, skips=skips, fits=fits):
        for given in verdicts.stages:
            counts = int(np.count_nonzero(given.index < 0)) + len(given.unread), int(np.sum(given.code == FAILED))
            if any(counts):
                todo.setdefault(verdicts.fragment, {})[given.stage] = counts
    return Survey(skips, fits, todo)


def new_sources(columns: Columns) -> Iterator[SourceRef]:
    """Sources of the inputs that no fragment has: known is the same place in the same version."""

    def names(fragment: str) -> list[bytes]:
        table = columns.sources(fragment, ["uri", "member", "version"])
        return [_digest(*row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True)]

    # Digests, because a run knows millions of names.
    known = {name for found in ahead(names, columns.fragments(), columns.storage.readers) for name in found}
    for ref in list_sources(columns.pipeline.settings.inputs):
        name = _digest(ref.uri, ref.member, ref.version)
        if name not in known:
            known.add(name)
            yield ref


def _digest(*texts: str) -> bytes:
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=16).digest()


def cut(columns: Columns) -> int:
    """Cut what is new in the inputs into fragments, which never change after. Returns how many sources were new."""
    size, added = columns.pipeline.settings.fragment_rows, 0
    if next(new_sources(columns), None) is None:
        return 0
    # Two runs of one folder at once must not give one number to two fragments.
    with columns.storage.lock(SOURCES):
        fragments = columns.fragments()
        number = int(fragments[-1]) + 1 if fragments else 0
        for refs in batched(new_sources(columns), size):
            columns.storage.write(f"{SOURCES}/{number:06d}.parquet", parquet_bytes(SourceRef.to_table(refs)))
            number, added = number + 1, added + len(refs)
    return added


def pending_work(pipeline: Pipeline, found: Survey, groups: Sequence[Group], options: RunOptions) -> SegmentWork:
    """What is missing in a segment."""
    order = [INGEST, *(spec.name for spec in pipeline.stages)]
    allowed = _allowed(pipeline, options)
    kept = [group for group in (_restrict(group, allowed) for group in groups) if group is not None]
    names = [name for group in kept for name in group.stages]
    if not names:
        return SegmentWork([], {}, {})
    work: dict[str, list[str]] = {}
    pending = dict.fromkeys(names, 0)
    for fragment, todo in found.todo.items():
        counts = {name: new + (failed if options.retry_failed else 0) for name, (new, failed) in todo.items()}
        for name in counts.keys() & pending.keys():
            pending[name] += counts[name]
            if counts[name]:
                work[fragment] = sorted(found.skips.get(fragment, ()))
    first = next((order.index(name) for name in names if pending[name]), len(order))
    due = set(order[first:])
    needed = [group for group in (_from(group, due) for group in kept) if group is not None]
    return SegmentWork(needed, work, pending)


def save_record(columns: Columns, fits: Fits) -> None:
    """`run.yaml`: the resolved pipeline, versions, fingerprints and fitted quantiles. No time of day."""
    pipeline = columns.pipeline
    record = {
        "ugaf": __version__,
        "python": platform.python_version(),
        "packages": package_versions(),
        "fingerprints": {INGEST: pipeline.ingest_fingerprint, **{s.name: s.fingerprint for s in pipeline.stages}},
        "fitted": {name: rules.describe(fitted) for name, fitted in fits.items()},
        "pipeline": pipeline.document,
    }
    text = yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=110)
    columns.storage.write_if_changed(RUN_FILE, text.encode())


def _check_output(pipeline: Pipeline, options: RunOptions) -> None:
    """On a cluster a relative path is another folder on every node, and a submitted job's is deleted after it."""
    cluster = cluster_address(options.address)
    on_ray = pipeline.settings.engine.executor == "ray"
    if on_ray and cluster and "://" not in pipeline.output and not os.path.isabs(os.path.expanduser(pipeline.output)):
        raise ConfigError(
            f"output: on the cluster {cluster} the run's folder must be a URL or an absolute path that every node "
            f"shares (got {pipeline.output!r}); set it with --output"
        )


def _allowed(pipeline: Pipeline, options: RunOptions) -> set[str]:
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
    allowed = _allowed(pipeline, options)
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


def _task_maker(columns: Columns, fits: Fits, options: RunOptions, links: Mapping[str, ServerLink]) -> MakeTask:
    def make(group: Group) -> Task:
        url, names = columns.storage.url, servers_of([group])
        servers = {name: links[name] for name in names}
        return Task(url, columns.pipeline, group.chains, fits, options.retry_failed, group.lane, servers)

    return make


def batched(items: Iterable[SourceRef], size: int) -> Iterator[list[SourceRef]]:
    """Lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
