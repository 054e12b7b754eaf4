"""Runs segments of a plan: on Ray Data, or inline in this process.

On Ray Data one row is one fragment's name, a segment is one streaming plan (`from_items(fragments)` and one
`map_batches` on an actor pool for each group), and no data but names travels between the pools: workers read and write
the run's folder. A worker that dies is restarted by Ray and gets its fragment again; the Monitor knows what it held.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ugaf.across import RunRows, run_stage
from ugaf.config import Pipeline
from ugaf.errors import StopRun, UgafError
from ugaf.monitor import BatchedJournal, Monitor
from ugaf.plan import Group, Machine, left_by_servers, servers_during, size_pools
from ugaf.worker import StageWorker, Task, one_thread

OBJECT_STORE_BYTES = 160 << 20
"""A local Ray's shared memory: only names of fragments pass through it."""

START_TRIES = 3
"""Times that a local Ray is started before a run gives up."""

SETUP_DEATHS = 3
"""Deaths of a worker in its set-up, one after the other, after which the run stops."""

Progress = Callable[[Mapping[str, Mapping[str, Any]]], None]


class RunError(StopRun):
    """The engine stopped: the message holds the cause."""


class _WorkerError(Exception):
    """Carries a stop out of a process of Ray's, whose own machinery handles an `Exception` only."""


MakeTask = Callable[[Group], Task]


def run_inline(groups: Sequence[Group], make_task: MakeTask, work: Mapping[str, Sequence[str]]) -> None:
    """Every group's fragments in this process, one after the other. `work`: fragment -> ids to skip."""
    for group in groups:
        worker = StageWorker(make_task(group), Monitor())
        for fragment, skip in work.items():
            worker.run(fragment, skip)


class _RayWorker:
    """What Ray Data keeps in each actor."""

    def __init__(self, task: Task, monitor: Any) -> None:
        import ray

        # What fails here is kept for the first call: Ray starts a worker whose constructor fails again, for ever
        # if its process died, and shows the error of a call only.
        self.worker: StageWorker | None = None
        self.monitor = monitor
        stages = ", ".join(name for chain in task.chains for name in chain)
        me = ray.get_runtime_context().get_actor_id()
        deaths = ray.get(monitor.starting.remote(me))
        if deaths >= SETUP_DEATHS:
            self.problem = f"the worker of {stages} died {deaths} times while it was being set up"
            return
        try:
            self.worker = StageWorker(task, BatchedJournal(monitor))
        except (Exception, StopRun) as error:
            kind = "" if isinstance(error, UgafError | StopRun) else f"{type(error).__name__}: "
            self.problem = f"setting up {stages}: {kind}{error}"
        ray.get(monitor.started.remote(me))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import ray

        try:
            if self.worker is None:
                raise _WorkerError(self.problem)
            for fragment, skip in zip(batch["fragment"], batch["skip"], strict=True):
                self.worker.run(str(fragment), json.loads(str(skip)))
        except (Exception, StopRun) as error:
            # Ray Data's own error does not carry the cause.
            text = str(error) if isinstance(error, UgafError | StopRun | _WorkerError) else traceback.format_exc()
            ray.get(self.monitor.fail.remote(text))
            raise _WorkerError(text) from error
        return batch


def cluster_address(address: str | None) -> str | None:
    """The cluster to attach to: the one that was named, else RAY_ADDRESS (a submitted job has it), else none."""
    named = address or os.environ.get("RAY_ADDRESS")
    return None if named == "local" else named


class RayEngine:
    """A connection to Ray for as long as the `with` block lasts.

    address: a cluster's address; None starts Ray here, unless RAY_ADDRESS (which a submitted job has) names one.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = cluster_address(address) or "local"
        self.monitor: Any = None

    def __enter__(self) -> RayEngine:
        # Ray's native code prints notices for its own developers to this terminal: only fatal ones are for users.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        local: dict[str, Any] = {}
        if self.address == "local":
            local = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
            # Workers that Ray starts in advance lack the environment below, and would never be used.
            os.environ.setdefault("RAY_enable_worker_prestart", "0")
            os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
            # Workers find the modules that this process finds, such as a user's own stages.
            path = os.pathsep.join(dict.fromkeys(os.path.abspath(entry) for entry in sys.path))
            local["runtime_env"] = {"env_vars": {"PYTHONPATH": path}}
        try:
            with _native_stderr_hidden():
                self._connect(local)
        except Exception as error:  # Ray raises a bare Exception where its processes do not start in time
            doing = "start Ray here" if self.address == "local" else f"reach Ray at {self.address!r}"
            raise RunError(f"cannot {doing}: {error}") from error
        self.monitor = ray.remote(num_cpus=0)(Monitor).remote()
        return self

    def _connect(self, local: dict[str, Any]) -> None:
        import ray

        for attempt in range(START_TRIES if local else 1):
            try:
                ray.init(self.address, log_to_driver=False, logging_level=logging.ERROR, **local)
                return
            except Exception:
                # A machine that loads models is busy, and Ray gives its own processes no more than 30 s to start.
                ray.shutdown()
                if not local or attempt + 1 == START_TRIES:
                    raise

    def __exit__(self, *_: object) -> None:
        import ray

        ray.shutdown()

    def machine(self) -> Machine:
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        total = ray.cluster_resources()
        return Machine(
            total.get("CPU", 0),
            total.get("GPU", 0),
            max((n.get("CPU", 0) for n in nodes), default=0),
            max((n.get("GPU", 0) for n in nodes), default=0),
        )

    def check(self, segments: Sequence[Sequence[Group]], pipeline: Pipeline) -> None:
        """Raises FitError if any of the segments does not fit, before the first one starts."""
        engine = pipeline.settings.engine
        for number, groups in enumerate(segments):
            servers = servers_during(segments, number, engine.streaming)
            size_pools(groups, left_by_servers(self.machine(), pipeline, servers), engine.workers)

    def run(
        self,
        groups: Sequence[Group],
        make_task: MakeTask,
        work: Mapping[str, Sequence[str]],
        pipeline: Pipeline,
        servers: Sequence[str],
        progress: Progress,
    ) -> None:
        """One streaming plan over the fragments. Raises RunError with the first worker's error.

        work: fragment -> ids to skip. servers: entries of `models:` that are running meanwhile.
        """
        import ray

        _quiet_ray_data()
        items = [{"fragment": name, "skip": json.dumps(sorted(skip))} for name, skip in work.items()]
        machine = left_by_servers(self.machine(), pipeline, servers)
        pools = size_pools(groups, machine, pipeline.settings.engine.workers)
        data: Any = ray.data.from_items(items, override_num_blocks=len(items))
        for pool in pools:
            data = data.map_batches(
                _RayWorker,
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(
                    size=min(pool.workers, len(items)),
                    max_tasks_in_flight_per_actor=max(4, 2 * pool.fragments),
                    # Fragments in threads of one worker, where its stage waits for a server.
                    max_concurrent_calls_per_actor=pool.fragments,
                    enable_true_multi_threading=pool.fragments > 1,
                ),
                num_cpus=pool.cpus,
                num_gpus=pool.gpus or None,
                fn_constructor_kwargs={"task": make_task(pool.group), "monitor": self.monitor},
            )
        with self._watch(progress):
            try:
                for _ in data.iter_batches(batch_size=None, prefetch_batches=0):
                    pass
            except ray.exceptions.RayError as error:
                problem = ray.get(self.monitor.problem.remote()) or _cause(error)
                raise RunError(f"a worker stopped the run: {problem}") from error

    def run_whole(self, run: RunRows, seed: int, progress: Progress) -> None:
        """A stage that compares the rows of the whole run: it runs here, and the parts that it maps as tasks of Ray."""
        import ray

        run.mapper = self._map
        with self._watch(progress):
            run_stage(run, seed, lambda *counts: ray.get(self.monitor.progress.remote(*counts)))

    def _map(self, run: RunRows, function: Callable[[RunRows, Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """function(run, item) of each item in order, as many at once as there are CPUs."""
        import ray

        task, shared = ray.remote(_one_item), ray.put(run)
        most, waiting = max(1, int(self.machine().cpus)), deque[Any]()
        for item in items:
            waiting.append(task.options(num_cpus=1).remote(shared, function, item))
            if len(waiting) >= most:
                yield _answer(waiting.popleft())
        while waiting:
            yield _answer(waiting.popleft())

    @contextmanager
    def _watch(self, progress: Progress) -> Iterator[None]:
        import ray

        done = threading.Event()

        def loop() -> None:
            while not done.wait(0.5):
                progress(ray.get(self.monitor.snapshot.remote()))

        thread = threading.Thread(target=loop, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
        progress(ray.get(self.monitor.snapshot.remote()))


def _one_item(run: RunRows, function: Callable[[RunRows, Any], Any], item: Any) -> Any:
    one_thread()
    try:
        return function(run, item)
    except StopRun as error:
        raise _WorkerError(str(error)) from error


def _answer(task: Any) -> Any:
    import ray

    try:
        return ray.get(task)
    except ray.exceptions.RayError as error:
        raise RunError(f"a task stopped the run: {_cause(error)}") from error


@contextmanager
def _native_stderr_hidden() -> Iterator[None]:
    """Hides what native code writes to this process's stderr while Ray starts; Python's own stderr is left alone."""
    sys.stderr.flush()
    kept = os.dup(2)
    python_stderr = sys.stderr
    with open(os.devnull, "wb") as nowhere, os.fdopen(os.dup(kept), "w", closefd=True) as visible:
        os.dup2(nowhere.fileno(), 2)
        sys.stderr = visible
        try:
            yield
        finally:
            sys.stderr = python_stderr
            os.dup2(kept, 2)
            os.close(kept)


def _quiet_ray_data() -> None:
    """Ray Data's own bars and notices tell of blocks and operators; the run shows its own progress, in rows."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.verbose_progress = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def _cause(error: BaseException) -> str:
    cause = getattr(error, "cause", None) or error.__cause__
    return f"{type(cause).__name__}: {cause}" if cause is not None else str(error)
