"""A moving average of the trained weights, split over processes as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch


class Average:
    """average = decay average + (1 - decay) weights after each step, with less decay in the first steps.

    decay: at step s it is min(decay, (1 + s) / (10 + s)), so that the first weights are forgotten.
    """

    def __init__(self, parameters: Mapping[str, torch.Tensor], decay: float) -> None:
        self.decay = decay
        self.parameters = dict(parameters)
        self.values = {name: value.detach().clone() for name, value in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After step `step`, counted from 0."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, value in self.parameters.items():
            self.values[name].lerp_(value.detach(), share)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Within it, the model has the averages for weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, value in self.parameters.items():
            kept = value.detach().clone()
            value.copy_(self.values[name])
            self.values[name].copy_(kept)
