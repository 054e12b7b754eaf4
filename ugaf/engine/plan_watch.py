"""Looks after a plan of Ray Data while it runs, and ends it where it would wait for ever.

Each pool reserves its share of the cluster for as long as the plan lasts. When nodes leave, a pool may lose all of its
workers and never get another one, since the idle workers of other pools hold what is left. Rows are committed as they
are done, so the plan is ended, and one that fits what is there now goes on: that costs each worker a minute's work and
its start, so it is done only where a pool has work and no worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ugaf.engine.plan import Machine

EVERY_S = 1.0
"""Seconds between two looks."""
STARVED_S = 10.0
"""Seconds without a worker, and with work, after which a pool is given up on."""


class Replan(Exception):  # noqa: N818 - no error: it ends a plan so that another may go on
    """Ends a plan. Its text says why, for the user."""


@dataclass(frozen=True)
class PoolState:
    """A pool as it is now: workers at work or ready, and units that wait for one."""

    workers: int
    waiting: int


class PlanWatch:
    """Decides whether a plan goes on, from what it is told of it.

    names: of its pools, in order. machine: gives the resources as they are now. clock: in seconds.
    """

    def __init__(
        self, names: Sequence[str], machine: Callable[[], Machine], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._names = names
        self._machine = machine
        self._clock = clock
        self._began_with = machine()
        self._starved: dict[str, float] = {}
        self._looked = clock()

    def look(self, pools: Callable[[], Iterable[PoolState]]) -> None:
        """Called over and over while the plan runs. Raises Replan."""
        now = self._clock()
        if now - self._looked < EVERY_S:
            return
        self._looked = now
        states = zip(self._names, pools(), strict=True)
        starved = [name for name, pool in states if pool.waiting and not pool.workers]
        since = {name: self._starved.get(name, now) for name in starved}
        self._starved = since
        if not any(now - began >= STARVED_S for began in since.values()):
            return
        here, then = self._machine(), self._began_with
        if here.cpus < then.cpus or here.gpus < then.gpus:
            names = ", ".join(since)
            raise Replan(
                f"nodes have left (there were {then.cpus:g} CPUs and {then.gpus:g} GPUs, there are {here.cpus:g} and "
                f"{here.gpus:g}), and no worker is left for {names}: planned anew for what is there"
            )


def callback(watch: PlanWatch) -> type:
    """A class for `DataContext.custom_execution_callback_classes` that has the watch look at each step of a plan."""
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    class Looking(ExecutionCallback):
        def on_execution_step(self, executor: Any) -> None:
            watch.look(lambda: _pools(executor))

    return Looking


def _pools(executor: Any) -> Iterable[PoolState]:
    # The plan's operators, from its input on.
    for operator, state in executor._topology.items():
        for pool in operator.get_autoscaling_actor_pools():
            waiting = state.total_enqueued_input_blocks() + pool.num_tasks_in_flight()
            yield PoolState(pool.num_running_actors() - pool.num_restarting_actors(), waiting)
