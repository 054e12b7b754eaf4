"""Flow matching: what the model is shown, what it should say, and how often each noise level is asked.

FineEdit (arXiv 2604.10954, section 3.1): q_t = t noise + (1 - t) target with t in 0..1 (1 is pure noise), and the model
gives the velocity d q_t / d t = noise - target. A sample's noise and t follow from (seed, step, place in the step), so
that they are the same however the step is split over ranks, and after a restart.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ugaf.trainer.seeds import seed_of
from ugaf.trainer.settings import FlowSettings


def noisy(clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """q_t of latents (n, ...), at t (n,)."""
    t = _like(t, clean)
    return t * noise + (1 - t) * clean


def velocity(clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """What the model should say, (n, ...); the same at every t."""
    return noise - clean


def losses(
    predicted: torch.Tensor, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, flow: FlowSettings
) -> torch.Tensor:
    """float32 (n,): the weighted mean square error of each sample's velocity."""
    squares = (predicted.float() - velocity(clean, noise).float()).square().flatten(1).mean(1)
    return squares * weights(t, flow).to(squares)


def weights(t: torch.Tensor, flow: FlowSettings) -> torch.Tensor:
    """float32 (n,): none: 1; sigma_sqrt: t^-2; cosmap: 2 / (pi (1 - 2t + 2t^2)), both of Stable Diffusion 3
    (arXiv 2403.03206, section 3.1)."""
    t = t.float()
    if flow.weighting == "sigma_sqrt":
        return t.clamp_min(1e-3).pow(-2)
    if flow.weighting == "cosmap":
        return 2 / (torch.pi * (1 - 2 * t + 2 * t * t))
    return torch.ones_like(t)


def noise_of(shape: Sequence[int], seed: int, step: int, positions: Sequence[int]) -> torch.Tensor:
    """Gaussian noise, float32 (n, *shape), on the CPU: one generator for each sample of the step."""
    made = [
        torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed_of(seed, "noise", step, place)))
        for place in positions
    ]
    return torch.stack(made)


def timesteps(flow: FlowSettings, seed: int, step: int, positions: Sequence[int], count: int) -> torch.Tensor:
    """t, float32 (n,) in 0..1, of the samples at `positions` of a step of `count` samples.

    Stratified, the step's samples take one value from each of `count` strata of equal probability; which of them a
    position gets moves on by one with every step and is offset at random, so that no rank or lane sees only some noise
    levels (FireRed-Image-Edit's distributed stratified sampling, with rotation over ranks).
    """
    inside = torch.tensor([_uniform(seed_of(seed, "t", step, place)) for place in positions])
    if flow.stratified:
        start = int(_uniform(seed_of(seed, "strata")) * count) + step
        strata = torch.tensor([(place + start) % count for place in positions])
        inside = (strata + inside) / count
    return quantile(inside, flow)


def quantile(share: torch.Tensor, flow: FlowSettings) -> torch.Tensor:
    """t below which this share of the distribution lies: float32 (n,) of shares in 0..1."""
    t = share.double().clamp(1e-7, 1 - 1e-7)
    if flow.timesteps == "logit_normal":
        t = torch.sigmoid(flow.mean + flow.std * torch.special.ndtri(t))
    return (flow.shift * t / (1 + (flow.shift - 1) * t)).float()


def _uniform(seed: int) -> float:
    return seed / 2**63


def _like(t: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return t.to(values).view(-1, *[1] * (values.dim() - 1))
