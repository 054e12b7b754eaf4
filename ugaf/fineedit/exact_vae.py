"""An autoencoder that is exact and has nothing to learn: the cosine transform of small squares of pixels.

With it a small model trained from nothing paints pictures, where a random autoencoder would paint noise. It has the
interface of `AutoencoderKLQwenImage` that pipelines use: single pictures as videos of one frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import AutoencoderMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class Exact:
    """A distribution of one value."""

    value: torch.Tensor

    def mode(self) -> torch.Tensor:
        return self.value

    def sample(self, generator: Any = None) -> torch.Tensor:  # noqa: ARG002
        return self.value


@dataclass(frozen=True)
class Encoded:
    """What `encode` gives."""

    latent_dist: Exact


class CosineVAE(ModelMixin, AutoencoderMixin, ConfigMixin):
    """Squares of `factor` x `factor` pixels as their cosine transform (type II, orthonormal), colour by colour.

    factor: pixels of a latent's side, a power of 2. z_dim: 3 factor^2, which it need not be told. `latents_std` are
    about the amplitudes of photographs: the mean of a square varies by `factor`, and frequencies fall off as 1 / f.
    """

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        factor: int = 4,
        z_dim: int | None = None,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
    ) -> None:
        super().__init__()
        channels = 3 * factor * factor
        if z_dim not in (None, channels):
            raise ValueError(f"z_dim: {z_dim}, but squares of {factor} x {factor} pixels have {channels} channels")
        self.register_to_config(
            z_dim=channels,
            latents_mean=latents_mean or [0.0] * channels,
            latents_std=latents_std or _amplitudes(factor),
        )
        self.factor = factor
        # Work is so little that neither changes anything.
        self.use_slicing = self.use_tiling = False
        self.temperal_downsample = (False,) * int(math.log2(factor))
        self.register_buffer("basis", _cosines(factor).repeat(3, 1, 1, 1), persistent=False)
        # Without a parameter a model has no device and no dtype.
        self.place = nn.Parameter(torch.zeros(()), requires_grad=False)

    def encode(self, pictures: torch.Tensor) -> Encoded:
        """(n, 3, 1, h, w) to latents (n, 3 factor^2, 1, h / factor, w / factor)."""
        basis = self.basis.to(pictures)
        return Encoded(Exact(functional.conv2d(pictures[:, :, 0], basis, stride=self.factor, groups=3).unsqueeze(2)))

    def decode(self, latents: torch.Tensor, return_dict: bool = True) -> Any:
        """The inverse; a tuple of one, with return_dict or without."""
        del return_dict
        basis = self.basis.to(latents)
        pictures = functional.conv_transpose2d(latents[:, :, 0], basis, stride=self.factor, groups=3)
        return (pictures.unsqueeze(2),)


def _cosines(factor: int) -> torch.Tensor:
    """(factor^2, 1, factor, factor): the orthonormal functions, the mean first."""
    at = torch.arange(factor, dtype=torch.float64)
    waves = torch.cos(torch.pi * (2 * at[None] + 1) * at[:, None] / (2 * factor)) * math.sqrt(2 / factor)
    waves[0] /= math.sqrt(2)
    return torch.einsum("ai,bj->abij", waves, waves).reshape(factor**2, 1, factor, factor).float()


def _amplitudes(factor: int) -> list[float]:
    one = [0.5 * factor / (1 + 2 * (a + b)) for a in range(factor) for b in range(factor)]
    return one * 3
