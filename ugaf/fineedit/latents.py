"""From pictures to latents to tokens and back, and the two masks.

Pictures are float (n, 3, height, width) in -1..1, latents (n, channels, height / factor, width / factor) with zero mean
and unit variance, tokens (n, sequence, 4 channels): squares of 2 x 2 latents, row by row, as Qwen-Image packs them.

`roi_mask` is True inside the boxes, `background_mask` outside of them; the paper calls both M.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ugaf.imaging.boxes import Box

PATCH = 2
"""Latents of a token's side."""


class Codec:
    """The autoencoder of Qwen-Image (or one with its interface), on normalised latents of single pictures."""

    def __init__(self, vae: Any) -> None:
        self.vae = vae
        self.factor: int = 2 ** len(vae.temperal_downsample)
        self.channels: int = vae.config.z_dim
        self._mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
        self._std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)

    @property
    def multiple(self) -> int:
        """Both sides of a picture are multiples of this many pixels."""
        return self.factor * PATCH

    @torch.no_grad()
    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """The mode of the latents' distribution, float32."""
        given = pictures.to(self.vae.device, self.vae.dtype).unsqueeze(2)
        latents = self.vae.encode(given).latent_dist.mode().float()
        return ((latents - self._mean.to(latents)) / self._std.to(latents)).squeeze(2)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """float32 in about -1..1."""
        latents = latents.float().unsqueeze(2)
        given = latents * self._std.to(latents) + self._mean.to(latents)
        decoded: torch.Tensor = self.vae.decode(given.to(self.vae.device, self.vae.dtype), return_dict=False)[0]
        return decoded.float().squeeze(2)


def to_float(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 0..255 to float32 -1..1."""
    return pictures.float() / 127.5 - 1


def without(pictures: torch.Tensor, roi_mask: torch.Tensor) -> torch.Tensor:
    """Pictures with 0 (mid-grey) inside the boxes: what early and deep fusion are told. roi_mask: bool (n, 1, h, w)."""
    return pictures * ~roi_mask


def roi_mask(boxes: Sequence[Sequence[Box]], height: int, width: int) -> torch.Tensor:
    """bool (n, 1, height, width), True inside the boxes of each picture; without boxes, everywhere (a global edit)."""
    mask = torch.zeros(len(boxes), 1, height, width, dtype=torch.bool)
    for plane, own in zip(mask, boxes, strict=True):
        if not own:
            plane.fill_(True)
        for x1, y1, x2, y2 in own:
            plane[:, y1:y2, x1:x2] = True
    return mask


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Latents (n, c, h, w) to tokens (n, h w / 4, 4 c)."""
    n, c, h, w = latents.shape
    squares = latents.reshape(n, c, h // PATCH, PATCH, w // PATCH, PATCH).permute(0, 2, 4, 1, 3, 5)
    return squares.reshape(n, (h // PATCH) * (w // PATCH), c * PATCH * PATCH)


def unpack(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Tokens to latents (n, c, height, width); sides in latents."""
    n, _, c = tokens.shape
    squares = tokens.reshape(n, height // PATCH, width // PATCH, c // PATCH**2, PATCH, PATCH)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(n, c // PATCH**2, height, width)


def shape_of(latents: torch.Tensor) -> tuple[int, int, int]:
    """A picture's (frames, rows, columns) of tokens, as the rotary positions want them."""
    return 1, latents.shape[-2] // PATCH, latents.shape[-1] // PATCH
