"""When a plan is given up for another one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ugaf.engine.plan import Machine
from ugaf.engine.plan_watch import STARVED_S, PlanWatch, PoolState, Replan

WHOLE, LESS = Machine(8, 3, 4, 2), Machine(4, 1, 4, 1)
BOTH = [PoolState(2, 9), PoolState(2, 0)]
LOST = [PoolState(0, 9), PoolState(2, 0)]


class Cluster:
    """A clock, the resources, and the pools as they are told to a watch."""

    def __init__(self) -> None:
        self.now, self.machine = 0.0, WHOLE
        self.watch = PlanWatch(["a", "b"], lambda: self.machine, lambda: self.now)

    def pass_time(self, seconds: int, pools: Sequence[PoolState]) -> None:
        for _ in range(seconds):
            self.now += 1
            self.watch.look(lambda: pools)


def test_a_pool_that_lost_its_workers_with_a_node_ends_the_plan() -> None:
    cluster = Cluster()
    cluster.pass_time(100, BOTH)
    cluster.machine = LESS
    cluster.pass_time(int(STARVED_S), LOST)
    with pytest.raises(Replan, match=r"nodes have left .* 3 GPUs.* no worker is left for a:"):
        cluster.pass_time(2, LOST)


@pytest.mark.parametrize(
    ("machine", "pools"),
    [
        (WHOLE, LOST),  # its workers are being started
        (LESS, BOTH),  # each pool goes on with those that are left
        (LESS, [PoolState(0, 0), PoolState(2, 5)]),  # it has nothing to do
    ],
)
def test_a_plan_that_can_go_on_does(machine: Machine, pools: Sequence[PoolState]) -> None:
    cluster = Cluster()
    cluster.machine = machine
    cluster.pass_time(1000, pools)


def test_a_worker_in_between_counts() -> None:
    cluster = Cluster()
    cluster.machine = LESS
    for _ in range(50):
        cluster.pass_time(int(STARVED_S) - 1, LOST)
        cluster.pass_time(2, BOTH)
