"""A microbatch as tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from ugaf.imaging.boxes import Box
from ugaf.trainer.data.geometry import Bucket
from ugaf.trainer.data.records import Example


@dataclass
class Batch:
    """Samples of one bucket (W x H pixels, R references) that go through the model together.

    Attributes:
        ids: of the samples, as their rows say.
        bucket: size and number of condition images.
        instructions: what each is told.
        source, edited: RGB uint8 (n, 3, H, W); (n, 3, 0, 0) where `features` stand for them.
        references: RGB uint8 (n, R, 3, H, W); likewise (n, R, 3, 0, 0).
        roi_mask: bool (n, 1, H, W), True inside the boxes, everywhere for a global edit.
        boxes: half-open, in the bucket's pixels; none for a global edit.
        positions: int64 (n,), place in the step, over all lanes in order.
        step, lane: which microbatch this is.
        planned: samples of the step, over all lanes, with those that could not be read.
        epochs: int64 (n,), of each sample: those of one step may differ by one or more.
        weights: float32 (n,), 1, or 0 where the sample could not be read: its slot repeats another one, so that shapes
            stay as planned (zeros, if there is no other).
        corrupt: samples that could not be read, as (place or id, why).
        features: from the cache, by name, each (n, ...): `source_latents`, `edited_latents`, `masked_latents`,
            `text` (n, L, D) padded with zeros and `text_mask` bool (n, L), `empty_text` likewise. None without one.
    """

    ids: list[str]
    bucket: Bucket
    instructions: list[str]
    source: torch.Tensor
    edited: torch.Tensor
    references: torch.Tensor
    roi_mask: torch.Tensor
    boxes: list[list[Box]]
    positions: torch.Tensor
    step: int
    lane: int
    planned: int
    epochs: torch.Tensor
    weights: torch.Tensor
    corrupt: list[tuple[str, str]]
    features: dict[str, torch.Tensor] | None = None

    @property
    def background_mask(self) -> torch.Tensor:
        """bool (n, 1, H, W): what is not `roi_mask`."""
        return ~self.roi_mask

    def __len__(self) -> int:
        return len(self.ids)

    def pin_memory(self) -> Batch:
        """With its tensors in pinned memory."""
        return self._with(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """With its tensors on a device."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def _with(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        changed = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, torch.Tensor):
                changed[field.name] = change(value)
        features = None if self.features is None else {name: change(value) for name, value in self.features.items()}
        return replace(self, **changed, features=features)


def pixels_of(examples: Sequence[Example | None], bucket: Bucket) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """source, edited and references of a batch; zeros for None."""
    shape = (len(examples), bucket.height, bucket.width, 3)
    source, edited = np.zeros(shape, dtype=np.uint8), np.zeros(shape, dtype=np.uint8)
    references = np.zeros((len(examples), bucket.conditions - 1, *shape[1:]), dtype=np.uint8)
    for place, example in enumerate(examples):
        if example is not None:
            source[place], edited[place], references[place] = example.source, example.edited, example.references
    return _channels_first(source), _channels_first(edited), _channels_first(references)


def _channels_first(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).movedim(-1, -3).contiguous()
