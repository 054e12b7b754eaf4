"""Runs segments of a plan: on Ray Data, or inline in this process.

On Ray Data one row is the name of one unit of work, a segment is one streaming plan (`from_items(units)` and one
`map_batches` on an actor pool for each group), and no data but names travels between the pools: workers read and write
the run's folder. A worker that dies is restarted by Ray and gets its unit again; the Monitor knows what it held.
"""

from __future__ import annotations

import json
import logging
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any

import numpy as np

from ugaf.base.errors import STOPPED, StopRun, UgafError
from ugaf.engine import plan_watch
from ugaf.engine.alike import Alike, AlikeError
from ugaf.engine.costs import Known, Loads
from ugaf.engine.layout import check, laid_out, restarted, waves
from ugaf.engine.monitor import BatchedJournal, Monitor
from ugaf.engine.plan import Group, Machine, Pool, servers_of
from ugaf.engine.renewal import Renewal
from ugaf.engine.session import machine
from ugaf.engine.sizing import onwards as onwards_of
from ugaf.engine.sizing import size_of, split_from
from ugaf.engine.units import Onward, Unit, Work, units
from ugaf.engine.whole_run import StoredRows, run_stage
from ugaf.engine.worker import StageWorker
from ugaf.engine.workplace import Task, one_thread
from ugaf.pipeline.config import Pipeline

SETUP_DEATHS = 3
"""Deaths of a worker in its set-up, one after the other, after which the run stops."""

LEFT_BEHIND = "rows are left that workers had in hand when they died: they are done now"

ASK_S = 30.0
"""Seconds for an answer of the monitor, which has nothing to do but answer."""

DIED_OF = "a crash in native code, or too little memory: see the logs of Ray, or try fewer workers (engine.workers)"

Progress = Callable[[Mapping[str, Mapping[str, Any]]], None]


UPSCALE_FROM = 0.9
"""Share of a pool's workers at work from which it grows, where it may: one whose workers are all busy."""
NEVER = -1.0
"""A share of workers at work below which a pool would shrink: a model that is idle would soon be loaded again. Where
nothing more comes, or others lack the room, it shrinks in any case."""


class RunError(StopRun):
    """The engine stopped: the message holds the cause. status: 1 where the cause is a fault of ours."""

    def __init__(self, message: str, status: int = STOPPED) -> None:
        super().__init__(message)
        self.status = status


class _WorkerError(Exception):
    """Carries a stop out of a process of Ray's, whose own machinery handles an `Exception` only."""


MakeTask = Callable[[Group, Onward | None], Task]
"""(group, what it hands on) -> the task of its workers."""


def run_inline(
    groups: Sequence[Group],
    make_task: MakeTask,
    work: Work,
    monitor: Monitor | None = None,
    progress: Progress | None = None,
) -> None:
    """Every group's fragments in this process, one after the other."""
    monitor = monitor or Monitor()
    with watched(monitor.snapshot, progress or (lambda _: None)):
        try:
            for group in groups:
                worker = StageWorker(make_task(group, None), monitor)
                for fragment, pending in work.items():
                    worker.run(Unit(fragment), pending.skip)
                _stop_for(monitor.at_end())
        except StopRun as stop:
            stop.doubtful = stop.doubtful or monitor.doubtful()
            raise


class _RayWorker:
    """What Ray Data keeps in each actor."""

    def __init__(self, task: Task, monitor: Any) -> None:
        import ray

        # What fails here is kept for the first call: Ray starts a worker whose constructor fails again, for ever
        # if its process died, and shows the error of a call only.
        self.worker: StageWorker | None = None
        self.status = STOPPED
        self.monitor = monitor
        self.journal = BatchedJournal(monitor)
        stages = ", ".join(name for chain in task.chains for name in chain)
        me = ray.get_runtime_context().get_actor_id()
        deaths = ray.get(monitor.starting.remote(me))
        if deaths >= SETUP_DEATHS:
            self.problem = f"the worker of {stages} died {deaths} times while it was being set up ({DIED_OF})"
            return
        try:
            self.worker = StageWorker(task, self.journal)
        except (Exception, StopRun) as error:
            known = isinstance(error, UgafError | StopRun)
            self.problem = f"setting up {stages}: {error if known else traceback.format_exc()}"
            self.status = getattr(error, "status", STOPPED)
        self.renewal = Renewal(task.pipeline.settings.engine.worker_mb)
        ray.get(monitor.started.remote(me))

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        import ray

        try:
            if self.worker is None:
                raise _WorkerError(self.problem)
            for text, skip in zip(batch["unit"], batch["skip"], strict=True):
                unit, ids = Unit.loaded(str(text)), json.loads(str(skip))
                self.renewal.begin()
                self.worker.run(unit, ids)
                for following in self.worker.onward(unit, ids):
                    yield {"unit": np.array([following.dumped()]), "skip": np.array([str(skip)])}
                self.renewal.done()
        except (Exception, StopRun) as error:
            # Ray Data's own error does not carry the cause.
            known = isinstance(error, UgafError | StopRun | _WorkerError)
            text = str(error) if known else traceback.format_exc()
            status = self.status if isinstance(error, _WorkerError) else getattr(error, "status", 1)
            self.journal.flush()
            ray.get(self.monitor.fail.remote(text, status))
            raise _WorkerError(text) from error


class RayEngine:
    """Runs segments on the Ray that this process is connected to (see `Session`).

    stop_after_alike: see `EngineSettings`. elastic: pools grow and shrink with the cluster.
    """

    def __init__(self, stop_after_alike: int = 0, elastic: bool = False) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # Beside the driver, whose end is the run's in any case. If its process dies it is started again, and knows
        # nothing: no more than at the beginning of a session.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        actor: Any = ray.remote(Monitor)
        options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
        self._elastic = elastic
        self.monitor: Any = actor.options(**options).remote(stop_after_alike)

    def check(self, segments: Sequence[Sequence[Group]], pipeline: Pipeline) -> Machine:
        """What there is here. Raises FitError if any of the segments does not fit, before the first one starts."""
        here = machine()
        check(pipeline, waves(pipeline, segments, here, Known()), here, Known())
        return here

    def waves(self, segments: Sequence[Sequence[Group]], pipeline: Pipeline, known: Known) -> list[list[Group]]:
        """The segments as they fit here: in waves where that is the sooner end."""
        return waves(pipeline, segments, machine(), known)

    def replicas(
        self,
        groups: Sequence[Group],
        pipeline: Pipeline,
        servers: Sequence[str],
        running: Mapping[str, int],
        load: Loads,
    ) -> tuple[dict[str, int], bool]:
        """How many of each server a segment is to have, and whether those that run are to be stopped first.

        servers: that run while it does; running: that do already.
        """
        names = sorted({*servers, *servers_of(groups)})
        return restarted(pipeline, groups, names, machine(), load, running)

    def run(
        self,
        groups: Sequence[Group],
        make_task: MakeTask,
        work: Work,
        pipeline: Pipeline,
        servers: Mapping[str, int],
        rates: Mapping[str, float],
        progress: Progress,
        load: Loads | None = None,
    ) -> str:
        """One streaming plan over units of the fragments. Returns why another one has to go on, "" if it came to its
        end. Raises RunError with the first worker's error.

        servers: entries of `models:` that are running meanwhile, and how many of each. rates: seconds a row of stages,
        where it is known. load: of the groups and servers, see `layout`.
        """
        import ray

        pools = laid_out(pipeline, groups, list(servers), machine(), load or Loads(), servers).pools
        photographs = sum(pending.photographs for pending in work.values())
        sizes = [size_of(pipeline, pool.group, pool.workers * pool.fragments, photographs) for pool in pools]
        onwards = onwards_of(pipeline, groups, sizes)
        first = None if split_from(pipeline, groups) else sizes[0]
        ray.get(self.monitor.learn.remote(rates))
        rates = self._ask("rates", rates)
        items = [
            {"unit": unit.dumped(), "skip": json.dumps(sorted(pending.skip))}
            for fragment, pending in work.items()
            for unit in units(fragment, pending.photographs, first, rates)
        ]
        data: Any = ray.data.from_items(items, override_num_blocks=len(items))
        _prepare(data.context, plan_watch.PlanWatch([pool.group.name for pool in pools], machine))
        for number, (pool, onward) in enumerate(zip(pools, onwards, strict=True)):
            most = max(len(items), photographs) if number else len(items)
            data = data.map_batches(
                _RayWorker,
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(
                    **self._workers(pool, most),
                    # Names only travel: one that waits at a busy worker is one that an idle worker lacks.
                    max_tasks_in_flight_per_actor=pool.fragments,
                    # Units in threads of one worker, where its stage waits for a server.
                    max_concurrent_calls_per_actor=pool.fragments,
                    enable_true_multi_threading=pool.fragments > 1,
                ),
                num_cpus=pool.cpus,
                num_gpus=pool.gpus or None,
                fn_constructor_kwargs={"task": make_task(pool.group, onward), "monitor": self.monitor},
            )
        with watched(self._snapshot, progress):
            try:
                for _ in data.iter_batches(batch_size=None, prefetch_batches=0):
                    pass
            except plan_watch.Replan as why:
                return str(why)
            except ray.exceptions.RayError as error:
                _stop_for(self._ask("alike", None))
                problem, status = self._ask("problem", ("", STOPPED))
                stop = RunError(f"a worker stopped the run: {problem or _cause(error)}", status)
                stop.doubtful = self._ask("doubtful", ())
                raise stop from error
        _stop_for(self._ask("at_end", None))
        # A unit that is done a second time may be handed on in other pieces than those that went on before.
        return LEFT_BEHIND if self._ask("deaths", 0) else ""

    def _workers(self, pool: Pool, most: int) -> dict[str, int]:
        """How many workers a pool has. most: above which there would be no work.

        On a cluster it grows while all of its workers are busy and there is room, on nodes that join too, unless the
        pipeline says how many there are. When nodes leave it goes on with those that are left (see `plan_watch`).
        """
        size = min(pool.workers, most)
        if not self._elastic or pool.given or size >= most:
            return {"size": size}
        return {"min_size": size, "max_size": most, "initial_size": size}

    def _ask(self, method: str, otherwise: Any) -> Any:
        """What the monitor answers; `otherwise` if it is gone, and all of Ray perhaps."""
        import ray

        try:
            return ray.get(getattr(self.monitor, method).remote(), timeout=ASK_S)
        except ray.exceptions.RayError:
            return otherwise

    def news(self) -> list[str]:
        """What workers told since the last call, see `Monitor.news`."""
        return list(self._ask("news", []))

    def run_whole(self, run: StoredRows, seed: int, progress: Progress) -> None:
        """A stage that compares the rows of the whole run: it runs here, and the parts that it maps as tasks of Ray."""
        import ray

        run.mapper = self.spread
        with watched(self._snapshot, progress):
            run_stage(run, seed, lambda *counts: ray.get(self.monitor.progress.remote(*counts)))

    def spread(self, shared: Any, function: Callable[[Any, Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """function(shared, item) of each item in order, as many at once as there are CPUs; of a single one here, for a
        process that Ray starts for it would gain nothing."""
        import ray

        first = list(islice(items := iter(items), 2))
        if len(first) < 2:
            yield from (function(shared, item) for item in first)
            return
        items = chain(first, items)
        task, stored = ray.remote(_one_item), ray.put(shared)
        most, waiting = max(1, int(machine().cpus)), deque[Any]()
        for item in items:
            waiting.append(task.options(num_cpus=1).remote(stored, function, item))
            if len(waiting) >= most:
                yield _answer(waiting.popleft())
        while waiting:
            yield _answer(waiting.popleft())

    def _snapshot(self) -> Mapping[str, Mapping[str, Any]]:
        return self._ask("snapshot", {})


@contextmanager
def watched(snapshot: Callable[[], Mapping[str, Mapping[str, Any]]], progress: Progress) -> Iterator[None]:
    """Gives `progress` the snapshot twice a second, and once more at the end."""
    done = threading.Event()

    def loop() -> None:
        while not done.wait(0.5):
            progress(snapshot())

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    progress(snapshot())


def _stop_for(alike: Alike | None) -> None:
    if alike is not None:
        raise AlikeError(alike)


def _one_item(shared: Any, function: Callable[[Any, Any], Any], item: Any) -> Any:
    one_thread()
    try:
        return function(shared, item)
    except StopRun as error:
        raise _WorkerError(str(error)) from error


def _answer(task: Any) -> Any:
    import ray

    try:
        return ray.get(task)
    except ray.exceptions.RayError as error:
        raise RunError(f"a task stopped the run: {_cause(error)}") from error


def _prepare(context: Any, watch: plan_watch.PlanWatch) -> None:
    """The settings of one plan: those of other data sets in this process (a notebook's) stay as they are.

    Ray Data's own bars and notices tell of blocks and operators; the run shows its own progress, in rows.
    """
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.verbose_progress = False
    context.autoscaling_config.actor_pool_util_upscaling_threshold = UPSCALE_FROM
    context.autoscaling_config.actor_pool_util_downscaling_threshold = NEVER
    context.custom_execution_callback_classes = [*context.custom_execution_callback_classes, plan_watch.callback(watch)]
    # Units are rows of a few bytes: each is a block, which goes to a worker of its own.
    context.target_max_block_size = 1
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def _cause(error: BaseException) -> str:
    cause = getattr(error, "cause", None) or error.__cause__
    return f"{type(cause).__name__}: {cause}" if cause is not None else str(error)
