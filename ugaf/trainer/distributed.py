"""Processes and how the weights are split over them: one code path for a laptop and for many GPUs.

Even a single process starts a process group (of one) and wraps the model with FSDP2, so that what is tested on one CPU
is what runs on 64 GPUs. Gradients are averaged over processes; `ugaf.trainer.learned` makes that the mean over samples.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from ugaf.base.errors import ConfigError
from ugaf.trainer.settings import ScaleSettings


@dataclass(frozen=True)
class World:
    """This process among all. rank: 0 .. size - 1."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes logs and folders."""
        return self.rank == 0

    def summed(self, *values: float) -> list[float]:
        """The sums over all processes, in float64."""
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return list(total.tolist())

    def gathered(self, values: list[Any]) -> list[Any]:
        """All processes' values in one list, on the leading one; the others get none. They have to be picklable."""
        parts: list[Any] | None = [None] * self.size if self.leads else None
        dist.gather_object(values, parts)
        return [value for part in parts or [] for value in part]

    def wait(self) -> None:
        """Until every process is here."""
        dist.barrier()


def device_of(scale: ScaleSettings) -> torch.device:
    """Raises ConfigError for a GPU that is not there."""
    if scale.device == "cpu" or (scale.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("scale.device: cuda, but torch finds no GPU here; scale.device=cpu works, slowly")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())


def join(scale: ScaleSettings) -> World:
    """This process's place. Ray Train has made the process group already; alone, one of size 1 is made."""
    device = device_of(scale)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    return World(dist.get_rank(), dist.get_world_size(), device)


def leave() -> None:
    """Ends the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def split(model: Any, scale: ScaleSettings, world: World, dtype: torch.dtype) -> None:
    """Splits the model's weights over the processes, in place, block by block: FSDP2, or HSDP within groups.

    Computation is in `dtype`; weights, their gradients and the optimizer keep the weights' own type. The leading
    process's weights count: those of the others may be on the meta device (`ugaf.trainer.build.build`, weights=False).
    """
    kind = world.device.type
    whole = model.state_dict() if world.leads and world.size > 1 else {}
    if scale.strategy == "hsdp" and scale.shard:
        mesh = init_device_mesh(kind, (world.size // scale.shard, scale.shard), mesh_dim_names=("replicate", "shard"))
    else:
        mesh = init_device_mesh(kind, (world.size,), mesh_dim_names=("shard",))
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, output_dtype=torch.float32)
    inner = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    blocks = list(model.transformer_blocks)
    if model.adapter is not None:
        blocks += list(model.adapter.transformer_blocks)
    # It is about in-place changes of the output, of which there are none.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=inner)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    if world.size > 1:
        if not world.leads:
            model.to_empty(device=world.device)
        set_model_state_dict(model, whole, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))
