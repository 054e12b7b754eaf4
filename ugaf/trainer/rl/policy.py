"""The policy: the editor with a LoRA that learns, and copies of that LoRA's other states."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ugaf.fineedit.pipeline import FineEditPipeline
from ugaf.trainer.build import build, dtype_of
from ugaf.trainer.ema import Average
from ugaf.trainer.rl.settings import PostSettings


def build_policy(
    settings: PostSettings, device: torch.device, parts: bool = True, weights: bool = True
) -> FineEditPipeline:
    """The editor with a fresh LoRA, which alone requires a gradient; see `ugaf.trainer.build.build`.

    The LoRA's output is zero at first: the policy begins as the editor.
    """
    model = settings.model.as_model()
    pipeline = build(model, settings.seed, device, parts, weights)
    for name, parameter in pipeline.transformer.named_parameters():
        if ".lora_" not in name and parameter.requires_grad:
            # What fusion adds is trained before, not here.
            parameter.requires_grad_(False)
            parameter.data = parameter.data.to(dtype_of(model, device))
    return pipeline


class Copy(Average):
    """A copy of the LoRA's weights as they are now, split over processes as they are.

    Used in a `with copy.used():`, in which the model has these weights.
    """

    def __init__(self, parameters: Mapping[str, torch.Tensor]) -> None:
        super().__init__(parameters, 0.0)

    @torch.no_grad()
    def follow(self, stays: float) -> None:
        """copy = stays copy + (1 - stays) weights."""
        for name, value in self.parameters.items():
            self.values[name].lerp_(value.detach(), 1 - stays)
