"""The loader: a rank's batches, step after step, exactly as planned.

A thread of the rank follows the plan and reads the chunks of the rank's lanes; processes decode what it hands them,
still encoded, and give tensors back through shared memory. With a feature cache there is nothing to decode, and threads
copy the tensors out of the cache. Batches come in the order of the plan whoever was faster.

A sample that cannot be used keeps its slot, with the pixels of another one and the weight 0, so that shapes, and what
every other sample draws, do not depend on it.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader

from ugaf import storage
from ugaf.base.errors import ConfigError, UgafError
from ugaf.trainer.data.batch import Batch
from ugaf.trainer.data.cache import CacheReader
from ugaf.trainer.data.making import Job, cached_batch, image_batch
from ugaf.trainer.data.plan import Microbatch, Plan, placed
from ugaf.trainer.data.reading import Found, lane_records
from ugaf.trainer.data.records import Draw
from ugaf.trainer.data.settings import DataSettings

READERS = 8
"""Chunks that a rank reads at once."""
FEW_CORRUPT = 10
"""So many corrupt samples never stop a run."""


class CorruptDataError(UgafError):
    """Too many samples could not be read; the message names some."""


class Loader:
    """Iterates `(step, batches)` for one rank: the microbatches of its lanes, in order. Endless.

    Args:
        plan: the steps.
        rank, world: which of how many ranks; `world` divides the lanes. Rank r has the lanes r, r + world, ...
        start_step: the first step; what comes is what would have come there without a restart.
        end_step: the one after the last; default: there is none.

    Attributes:
        seen, corrupt: samples that were given, and those of them that could not be read.

    Raises:
        ConfigError: lanes that cannot be dealt to so many ranks, or a cache that was not made for these settings.
        CorruptDataError: while iterating; see `DataSettings.max_corrupt` and `on_corrupt`.
    """

    def __init__(
        self, plan: Plan, *, rank: int = 0, world: int = 1, start_step: int = 0, end_step: int | None = None
    ) -> None:
        self.plan = plan
        self.settings = settings = plan.settings
        if settings.lanes % world:
            raise ConfigError(f"data.lanes: {settings.lanes} lanes cannot be dealt to {world} ranks: choose a multiple")
        self.lanes = range(rank, settings.lanes, world)
        self.start_step = start_step
        self.end_step = end_step
        self.seen = self.corrupt = 0
        self._named: list[tuple[str, str]] = []
        self._cache = CacheReader(settings.cache, plan.index, settings) if settings.cache is not None else None
        self._running: list[Generator[Any, None, None]] = []

    def __iter__(self) -> Iterator[tuple[int, list[Batch]]]:
        self.close()
        jobs = _in_thread(self._jobs(), self.settings.prefetch)
        made = self._made(jobs)
        self._running = [made, jobs]
        try:
            for step in count(self.start_step):
                batches = list(islice(made, len(self.lanes)))
                if not batches:
                    return
                self._count(batches)
                yield step, batches
        finally:
            self.close()

    def close(self) -> None:
        """End the reader and the workers; the next iteration begins at `start_step` again."""
        while self._running:
            self._running.pop(0).close()

    def _jobs(self) -> Generator[Job, None, None]:
        plan, start = self.plan, self.start_step
        own = self.lanes if self._cache is None else range(0)
        pool = ThreadPoolExecutor(READERS)
        try:
            records = {lane: lane_records(plan, lane, start, pool) for lane in own}
            others = [lane for lane in range(plan.settings.lanes) if lane not in records]
            planned = {lane: plan.microbatches(lane, start) for lane in others}
            for _ in count() if self.end_step is None else range(start, self.end_step):
                found = {lane: next(lanes) for lane, lanes in records.items()}
                rest = {lane: (next(lanes), list[Found]()) for lane, lanes in planned.items()}
                every = [{**found, **rest}[lane] for lane in range(plan.settings.lanes)]
                # The place of a sample in the step depends on all lanes.
                step = placed([microbatch for microbatch, _ in every])
                samples = sum(map(len, step))
                for lane in self.lanes:
                    yield self._job(step[lane], samples, every[lane][1])
        finally:
            pool.shutdown(cancel_futures=True)

    def _job(self, microbatch: Microbatch, samples: int, found: list[Found]) -> Job:
        index = self.plan.index
        bits = self.plan.kept_references(microbatch.rows, microbatch.epochs)
        keys = index.keys[microbatch.rows]
        drawn = zip(keys.tolist(), microbatch.epochs.tolist(), bits.tolist(), strict=True)
        draws = [Draw(key, self.plan.seed, epoch, shown) for key, epoch, shown in drawn]
        return Job(microbatch, samples, draws, [index.where(row) for row in microbatch.rows.tolist()], found)

    def _made(self, jobs: Iterator[Job]) -> Generator[Batch, None, None]:
        workers, prefetch = self.settings.workers, self.settings.prefetch
        if self._cache is not None:
            cache = self._cache
            return storage.ahead(lambda job: cached_batch(job, cache), jobs, workers, max(prefetch, workers))
        decoder = _Decoder(self.settings)
        return _in_processes(decoder, jobs, workers, prefetch) if workers else (decoder[job] for job in jobs)

    def _count(self, batches: Sequence[Batch]) -> None:
        self.seen += sum(len(batch) for batch in batches)
        corrupt = [named for batch in batches for named in batch.corrupt]
        self.corrupt += len(corrupt)
        self._named = [*self._named, *corrupt][:FEW_CORRUPT]
        allowed = max(FEW_CORRUPT, self.settings.max_corrupt * self.seen) if self.settings.on_corrupt == "skip" else 0
        if self.corrupt > allowed:
            listed = "\n".join(f"{where}: {why}" for where, why in self._named)
            raise CorruptDataError(
                f"{self.corrupt} of {self.seen} samples could not be read, more than data.max_corrupt "
                f"({self.settings.max_corrupt:g}) and data.on_corrupt ({self.settings.on_corrupt}) allow:\n{listed}"
            )


class _Decoder:
    """A data set whose items are the batches of jobs: what DataLoader's worker processes run."""

    def __init__(self, settings: DataSettings) -> None:
        self.settings = settings

    def __getitem__(self, job: Job) -> Batch:
        return image_batch(job, self.settings)


def _in_processes(decoder: _Decoder, jobs: Iterable[Job], workers: int, prefetch: int) -> Generator[Batch, None, None]:
    # Not fork: the rank has threads, and perhaps a CUDA context. The server imports torch once for all workers.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    yield from DataLoader(
        decoder,  # type: ignore[arg-type]
        batch_size=None,
        sampler=jobs,  # type: ignore[arg-type]
        num_workers=workers,
        prefetch_factor=max(1, math.ceil(prefetch / workers)),
        collate_fn=_as_it_is,
        multiprocessing_context=context,
        worker_init_fn=_start_worker,
        # Else it would take a number from the global generator, on which a resumed training must not depend.
        generator=torch.Generator(),
    )


def _as_it_is(batch: Batch) -> Batch:
    return batch


def _start_worker(number: int) -> None:  # noqa: ARG001
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Workers of a rank that was killed would wait for ever: the server of forks, not the rank, is their parent."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _in_thread(items: Generator[Job, None, None], ahead: int) -> Generator[Job, None, None]:
    """The same items, made by a thread of their own; what it raises is raised here."""
    made: queue.Queue[Job | BaseException | None] = queue.Queue(maxsize=ahead)
    stop = threading.Event()

    def put(item: Job | BaseException | None) -> None:
        while not stop.is_set():
            try:
                made.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put(item)
                if stop.is_set():
                    break
        except BaseException as error:
            put(error)
        finally:
            items.close()
            put(None)

    thread = threading.Thread(target=work, name="reader", daemon=True)
    thread.start()
    try:
        while True:
            item = made.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
