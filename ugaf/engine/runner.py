"""One run from beginning to end: cut fragments, run what is pending segment by segment, write shards and report.

Resuming after a crash, adding photographs and loosening a threshold are this same function: it does what is missing.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import Any

from ugaf.base import faults
from ugaf.base.errors import ConfigError, StopRun, UgafError
from ugaf.base.needs import install_hint
from ugaf.columns import compaction, lease, record, tombstones
from ugaf.columns.code_digest import made_by_other_code
from ugaf.columns.fitting import check_recorded
from ugaf.columns.parts import Columns
from ugaf.columns.snapshot import Snapshot, Snapshots
from ugaf.columns.survey import Survey
from ugaf.columns.verdicts import Fits
from ugaf.engine.alike import Alike, shape
from ugaf.engine.costs import Known, expected, loads
from ugaf.engine.cutting import listed
from ugaf.engine.metrics import RunMetrics
from ugaf.engine.monitor import Monitor
from ugaf.engine.plan import Group, servers_during, servers_of
from ugaf.engine.ray_engine import MakeTask, RayEngine, run_inline, watched
from ugaf.engine.running_servers import RunningServers
from ugaf.engine.session import Session, cluster_address
from ugaf.engine.units import Onward
from ugaf.engine.watcher import Watcher
from ugaf.engine.whole_run import rows_of, run_stage
from ugaf.engine.work import Notify as Notify
from ugaf.engine.work import RunOptions as RunOptions
from ugaf.engine.work import SegmentWork, allowed_stages
from ugaf.engine.work import pending_work as pending_work
from ugaf.engine.work import restricted as restricted
from ugaf.engine.workplace import Task
from ugaf.ingest import save_listing, unknown_tasks
from ugaf.models.servers import ServerLink
from ugaf.pipeline.config import INGEST, Pipeline
from ugaf.storage import Storage


def run(
    pipeline: Pipeline, options: RunOptions, progress: Any, notify: Notify, watcher: Watcher | None = None
) -> Snapshot | None:
    """Do all that is pending. Returns the run as it is then, where that was read as a whole.

    progress: gets a Monitor snapshot a few times a second. notify: gets a line now and then. watcher: is told what is
    being done.

    What may refuse the run comes before anything of it is kept: the inputs are listed to their end, and machine and
    libraries looked at, before new sources count.

    The run is held meanwhile, and longer in a `lease.scope`.

    Raises StopRun where the run was stopped and the same call goes on, HeldError where another driver works in it.
    """
    with lease.scope("ugaf run", notify=notify):
        try:
            return _run(pipeline, options, progress, notify, watcher or Watcher())
        except StopRun as stop:
            # No worker is left that could write another such row.
            for alike in stop.doubtful:
                _take_back(Columns(Storage(pipeline.output), pipeline), alike)
            raise


def _take_back(columns: Columns, alike: Alike) -> None:
    for fragment in sorted(alike.fragments):
        columns.take_back(alike.stage, fragment, lambda error: shape(error) == alike.shape)


def _run(pipeline: Pipeline, options: RunOptions, tell: Any, notify: Notify, watcher: Watcher) -> Snapshot | None:
    allowed_stages(pipeline, options)
    faults.set_patience(pipeline.settings.engine.patience_s, notify)
    _check_output(pipeline, options)
    taken_over = record.check_pipeline(pipeline, options.replace)
    storage = Storage(pipeline.output)
    check_recorded(Columns(storage, pipeline))
    with lease.held(storage, "ugaf run") as mine:
        if mine.waited:
            taken_over = record.check_pipeline(pipeline, options.replace)
            check_recorded(Columns(storage, pipeline))
        if taken_over:
            notify(taken_over)
        return _run_held(Columns(storage, pipeline, mine.fence), options, tell, notify, watcher)


def _run_held(columns: Columns, options: RunOptions, tell: Any, notify: Notify, watcher: Watcher) -> Snapshot | None:
    pipeline = columns.pipeline
    allowed = allowed_stages(pipeline, options)
    if columns.storage.exists(record.RUN_FILE):
        watcher.accepted()
    if tombstones.is_unfinished(columns.storage):
        if options.finish_withdrawal is None:
            raise UgafError(
                f"{pipeline.output}: a withdrawal was interrupted; `ugaf run` and `ugaf withdraw` finish it"
            )
        options.finish_withdrawal(pipeline, notify)
    parts = restricted(pipeline, options)
    with ExitStack() as stack:
        machines = _Machines(pipeline, options, stack, notify, watcher)
        if INGEST in allowed:
            _take_in(columns, parts, machines, notify, watcher)
        watcher.doing("reading what is stored")
        snapshots = Snapshots(columns)
        found = snapshots.survey()
        if (missing := found.missing_inputs(pipeline, options.first)) is not None:
            raise ConfigError(missing)
        record.save(columns, found.fits, found.inputs)
        watcher.accepted()
        monitor = Monitor(pipeline.settings.engine.stop_after_alike)
        for line in record.stays(pipeline, found.inputs) if INGEST in allowed else ():
            notify(line)
        for line in made_by_other_code(pipeline.stages, found.made_by):
            notify(line)
        parts = machines.cut(parts, found, options)
        for number in range(len(parts)):
            while True:
                work = pending_work(pipeline, found, parts[number], options)
                if not work.fragments or not work.groups:
                    break
                machines.ready([work.groups, *parts[number + 1 :]])
                before = found.measured.total()
                again = _do(columns, found, work, parts, number, options, machines, monitor, tell)
                _join_parts(columns, work, machines.engine)
                watcher.doing("reading what is stored")
                found = snapshots.survey()
                columns.check()
                if INGEST in (name for group in work.groups for name in group.stages):
                    _note_unknown_tasks(columns, snapshots.latest, notify)
                record.save(columns, found.fits, found.inputs)
                if not again or found.measured.total() <= before:
                    break
                if pending_work(pipeline, found, parts[number], options).fragments:
                    notify(again)
        return snapshots.latest


def _do(
    columns: Columns,
    found: Survey,
    work: SegmentWork,
    parts: Sequence[Sequence[Group]],
    number: int,
    options: RunOptions,
    machines: _Machines,
    monitor: Monitor,
    tell: Any,
) -> str:
    """Do the work of a segment. Returns why what is left of it is to be done anew, "" if that would be of no use."""
    pipeline, engine, servers, watcher = columns.pipeline, machines.engine, machines.servers, machines.watcher
    names = servers_during(parts, number, pipeline.settings.engine.streaming is True)
    servers.keep_only(names)
    known = Known.of(found)
    load = loads(pipeline, work.groups, known, expected(pipeline, known))
    wanted: dict[str, int] = {}
    if engine is not None:
        wanted, anew = engine.replicas(work.groups, pipeline, names, servers.running, load)
        servers.keep_only(() if anew else names)
    if servers.lacks(servers_of(work.groups)):
        watcher.doing(f"starting model servers: {', '.join(servers_of(work.groups))}")
    links = servers.need(servers_of(work.groups), on_ray=engine is not None, replicas=wanted)
    make_task = _task_maker(columns, found.fits, options, links)
    watcher.doing(_segment_text(number, len(parts), work), work.pending)
    progress = machines.counted(work.pending, tell)
    again, news = "", monitor.news
    if work.groups[0].whole_run:
        _run_whole(columns, found, work.groups[0], options, engine or monitor, progress)
    elif engine is None:
        run_inline(work.groups, make_task, work.fragments, monitor, progress)
    else:
        again = engine.run(
            work.groups, make_task, work.fragments, pipeline, servers.running, found.rates, progress, load
        )
        news = engine.news
    machines.counted({}, tell)
    for line in news():
        machines.notify(line)
    return again


FEW_PARTS = 64
"""Parts of fragments that the driver joins by itself; of more each is a task of Ray."""


def _join_parts(columns: Columns, work: SegmentWork, engine: RayEngine | None) -> None:
    """Make few parts of many, of what a segment has written."""
    stages = [name for group in work.groups for name in group.stages]
    todo = compaction.to_join(columns, stages, work.fragments)
    here = len(todo) <= FEW_PARTS
    done = map(partial(_join, columns), todo) if engine is None or here else engine.spread(columns, _join, todo)
    deque(done, maxlen=0)


def _join(columns: Columns, of: tuple[str, str]) -> int:
    return compaction.compact(columns, *of)


def _segment_text(number: int, of: int, work: SegmentWork) -> str:
    names = list(work.pending)
    stages = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
    return f"segment {number + 1} of {of}, {stages}"


def _take_in(columns: Columns, parts: list[list[Group]], machines: _Machines, notify: Notify, watcher: Watcher) -> None:
    """Make what is new in the inputs part of the run, if the run can do its work."""
    watcher.doing("listing the inputs")
    with listed(columns, watcher) as new:
        if new.count:
            machines.ready(parts)
            columns.check()
            if not columns.storage.exists(record.RUN_FILE):
                record.save(columns, {})
            new.publish()
            notify(f"{new.count} new sources")
        for origin, count in new.missing.items():
            notify(
                f"{count} sources of {origin.name} are no longer listed (gone, replaced or past its limit): what was "
                "taken in from them stays in this run"
            )
        save_listing(columns.storage, new.not_read)
        if new.not_read:
            notify(f"not read: {new.not_read}")


def _note_unknown_tasks(columns: Columns, snapshot: Snapshot | None, notify: Notify) -> None:
    """Say and keep which tasks of a pair set ugaf has no name for: their pairs are judged like those without one."""
    if not columns.pipeline.is_pairs:
        return
    names = snapshot.tasks() if snapshot is not None else _tasks(columns)
    found = unknown_tasks(names)
    save_listing(columns.storage, tasks=found)
    if found:
        shown = ", ".join(f"{task}: {count:,}" for task, count in list(found.items())[:8])
        rest = f" and {len(found) - 8} more" if len(found) > 8 else ""
        notify(f"tasks that ugaf has no name for (their pairs are judged like those without a task): {shown}{rest}")


def _tasks(columns: Columns) -> Iterator[str | None]:
    for fragment in columns.fragments():
        yield from columns.light(INGEST, fragment, ["task"])[0].column("task").to_pylist()


class _Machines:
    """What does the work, got ready when it is known that there is some: Ray, and the model servers.

    engine: None for an inline run.
    """

    def __init__(
        self, pipeline: Pipeline, options: RunOptions, stack: ExitStack, notify: Notify, watcher: Watcher
    ) -> None:
        self.watcher = watcher
        self.notify = notify
        self.engine: RayEngine | None = None
        self._metrics: RunMetrics | None = None
        self._on_cluster = cluster_address(options.address) is not None
        self.servers = RunningServers(pipeline, self._on_cluster, notify)
        self._pipeline = pipeline
        self._options = options
        self._stack = stack
        self._is_ready = False

    def ready(self, parts: Sequence[Sequence[Group]]) -> None:
        """Raises ConfigError or FitError where these segments cannot be done here. Done once, by the first call."""
        if self._is_ready:
            return
        self._is_ready = True
        _check_installed(self._pipeline, [group for part in parts for group in part], self._options)
        if self._pipeline.settings.engine.executor != "inline":
            self.watcher.doing("attaching to Ray" if self._on_cluster else "starting Ray")
            self._stack.enter_context(Session(self._options.address, self.watcher.lost))
            self.engine = RayEngine(self._pipeline.settings.engine.stop_after_alike, elastic=self._on_cluster)
            self.watcher.runs_on(asdict(self.engine.check(parts, self._pipeline)))
            stages = [INGEST, *(spec.name for spec in self._pipeline.stages)]
            self._metrics = RunMetrics(self._pipeline.name, stages)
        self._stack.enter_context(self.servers)

    def counted(self, waiting: Mapping[str, int], progress: Any) -> Any:
        """A segment begins, with so many rows for each of its stages, or ends with none: `progress` that tells Ray's
        metrics too, where Ray is."""
        if self._metrics is None:
            return progress
        self._metrics.segment(waiting)
        return self._metrics.beside(progress)

    def cut(self, parts: list[list[Group]], found: Survey, options: RunOptions) -> list[list[Group]]:
        """The segments as they will be run, in waves where that is the sooner end; as they are if nothing is to do."""
        todo = [pending_work(self._pipeline, found, part, options) for part in parts]
        first = next((number for number, work in enumerate(todo) if work.fragments and work.groups), None)
        if first is None:
            return parts
        self.ready([todo[first].groups, *parts[first + 1 :]])
        return parts if self.engine is None else self.engine.waves(parts, self._pipeline, Known.of(found))


def _run_whole(
    columns: Columns, found: Survey, group: Group, options: RunOptions, engine: RayEngine | Monitor, progress: Any
) -> None:
    """One stage that compares the rows of the whole run; with a Monitor for an engine, in this process alone."""
    assert group.spec is not None
    rows = rows_of(columns, group.spec, columns.fragments(), found.skips, found.fits, options.retry_failed)
    seed = columns.pipeline.settings.seed
    if isinstance(engine, RayEngine):
        engine.run_whole(rows, seed, progress)
    else:
        with watched(engine.snapshot, progress):
            run_stage(rows, seed, engine.progress)


def _check_installed(pipeline: Pipeline, groups: Sequence[Group], options: RunOptions) -> None:
    """On this machine, that the libraries of the chosen models are there; a cluster's workers look for themselves."""
    if cluster_address(options.address):
        return
    for name in (name for group in groups for name in group.stages if name != INGEST):
        missing = pipeline.stage(name).needs.missing()
        if missing:
            raise ConfigError(f"{name}: {install_hint(missing)}")


def _check_output(pipeline: Pipeline, options: RunOptions) -> None:
    """On a cluster a relative path is another folder on every node, and a submitted job's is deleted after it."""
    cluster = cluster_address(options.address)
    on_ray = pipeline.settings.engine.executor == "ray"
    if on_ray and cluster and "://" not in pipeline.output and not os.path.isabs(os.path.expanduser(pipeline.output)):
        raise ConfigError(
            f"output: on the cluster {cluster} the run's folder must be a URL or an absolute path that every node "
            f"shares (got {pipeline.output!r}); set it with --output"
        )


def _task_maker(columns: Columns, fits: Fits, options: RunOptions, links: Mapping[str, ServerLink]) -> MakeTask:
    def make(group: Group, onward: Onward | None) -> Task:
        url, names = columns.storage.url, servers_of([group])
        servers = {name: links[name] for name in names}
        again, fence = options.retry_failed, columns.fence
        return Task(url, columns.pipeline, group.chains, fits, again, group.lane, servers, onward, fence=fence)

    return make
