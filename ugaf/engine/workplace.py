"""What a worker's process holds: the task, its stages set up, the run's columns, the journal outside of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from ugaf.base import faults, location
from ugaf.columns.code_digest import code_digest
from ugaf.columns.lease import Fence
from ugaf.columns.parts import Columns
from ugaf.columns.verdicts import Fits
from ugaf.engine.alike import AlikeError, FailedRow
from ugaf.engine.monitor import Journal
from ugaf.engine.turns import Turns
from ugaf.engine.units import Onward
from ugaf.models.servers import Servers
from ugaf.pipeline.config import INGEST, Pipeline
from ugaf.stage import Stage
from ugaf.storage import Storage


@dataclass(frozen=True)
class Task:
    """All that a worker needs to know to run chains of stages; travels to it once.

    chains: stages (by name; "ingest" may be the first) that run together, one chain after the other in each unit.
    retry_failed: rows that failed before are done again.
    lane: the lane of the (only) stage that this worker runs, see `Stage.lanes`.
    servers: where the model servers are that its stages name.
    onward: what is handed on to the next group of the segment, if there is one.
    secrets: what opens the URLs whose public faces the pipeline holds; in memory only. fence: of the driver's lease.
    """

    url: str
    pipeline: Pipeline
    chains: tuple[tuple[str, ...], ...]
    fits: Fits
    retry_failed: bool = False
    lane: str | None = None
    servers: Servers = field(default_factory=dict)
    onward: Onward | None = None
    secrets: Mapping[str, str] = field(default_factory=location.secrets, repr=False)
    fence: Fence | None = None


class Workplace:
    """Sets the stages of a task up once."""

    def __init__(self, task: Task, journal: Journal) -> None:
        one_thread()
        location.remember(task.secrets)
        faults.set_patience(task.pipeline.settings.engine.patience_s, journal.tell)
        self.task = task
        self.journal = journal
        self.columns = Columns(Storage(task.url), task.pipeline, task.fence, remembers=True)
        self.turns = Turns()
        self.stages: dict[str, Stage] = {}
        for name in (name for chain in task.chains for name in chain if name != INGEST):
            spec = task.pipeline.stage(name)
            code_digest(spec)  # Now, since the files may be changed while this process goes on with what it loaded.
            servers = {key: task.servers[key] for key in spec.demand(task.lane).servers}
            self.stages[name] = spec.build(task.pipeline.settings.seed, servers, task.lane)
            self.stages[name].setup()

    def tell(self, stage: str, counts: Mapping[str, int], seconds: float, failed: Sequence[FailedRow] = ()) -> None:
        """Count rows that are done. Raises AlikeError where those that failed, in all workers, stop the run."""
        alike = self.journal.progress(stage, counts, seconds, failed)
        if alike is not None:
            raise AlikeError(alike)


def one_thread() -> None:
    """A worker is one of as many as there are cores: libraries inside it must not start threads of their own."""
    import cv2
    from threadpoolctl import threadpool_limits

    cv2.setNumThreads(1)
    threadpool_limits(1)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(2)
