"""What a training changes: the trained weights and AdamW's state of them, split over the processes as they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from ugaf.base.errors import ConfigError
from ugaf.trainer.build import trained
from ugaf.trainer.distributed import World
from ugaf.trainer.settings import AdamWSettings


class Learned:
    """The weights of a model that require a gradient, and how they are changed.

    model: one that is split over the processes (`ugaf.trainer.distributed.split`).
    """

    def __init__(self, model: Any, settings: AdamWSettings, world: World) -> None:
        self.model = model
        self.settings = settings
        self.world = world
        self.parameters = trained(model)
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=settings.lr,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
        )
        # What AdamW would make at each weight's first gradient. A few weights never get one (what the last block makes
        # of the text is not used), and a checkpoint whose keys depend on that could not be loaded before a step.
        for value in self.parameters.values():
            self.optimizer.state[value] = {
                "step": torch.zeros((), dtype=torch.float32),
                "exp_avg": torch.zeros_like(value),
                "exp_avg_sq": torch.zeros_like(value),
            }

    def update(self, count: float, lr: float, where: str) -> float:
        """Changes the weights by the gradients of a sum over `count` samples; returns the gradient's norm (of the mean,
        before it was clipped). Without a sample nothing changes.

        Raises ConfigError, which begins with `where`, for a norm that is no number.
        """
        for parameter in self.parameters.values():
            if parameter.grad is not None:
                # Processes' gradients were averaged: this makes them the mean over samples.
                parameter.grad.mul_(self.world.size / max(1.0, count))
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.clip or math.inf)
        value = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        if not math.isfinite(value):
            raise ConfigError(
                f"{where}: the gradient's norm is {value}; the weights were left as they were. Go on from the last "
                "checkpoint with a lower optimizer.lr, or model.dtype=float32"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if count:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return value

    def tensors(self) -> dict[str, Any]:
        """For a checkpoint."""
        options = StateDictOptions(ignore_frozen_params=True)
        return {
            "model": get_model_state_dict(self.model, options=options),
            "optimizer": get_optimizer_state_dict(self.model, self.optimizer, options=options),
        }

    def restore(self, tensors: Mapping[str, Any]) -> None:
        """From a checkpoint that was loaded into `tensors()`."""
        options = StateDictOptions(ignore_frozen_params=True, strict=False)
        set_model_state_dict(self.model, tensors["model"], options=options)
        set_optimizer_state_dict(self.model, self.optimizer, tensors["optimizer"], options=options)
