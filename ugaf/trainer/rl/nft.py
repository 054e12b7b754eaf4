"""DiffusionNFT's loss (arXiv 2509.16117): good edits pull the velocity, bad ones push it, by the forward process alone.

From the velocity of the policy that sampled, v_old, and that of the policy that learns, v, come an implicit good and
an implicit bad one: v+ = (1 - beta) v_old + beta v and v- = (1 + beta) v_old - beta v. With the optimality probability
r of an edit and the true velocity u = noise - edit, the loss is r |v+ - u|^2 + (1 - r) |v- - u|^2. At v = v_old its
gradient is 2 beta (1 - 2r) (u - v_old): towards the edit for r > 1/2, away from it for r < 1/2, nothing for r = 1/2.
"""

from __future__ import annotations

from typing import Literal

import torch

LEAST_ERROR = 1e-5
"""Mean absolute error below which `self` weighting does not enlarge an edit's loss further."""


def losses(
    new: torch.Tensor,
    old: torch.Tensor,
    clean: torch.Tensor,
    noise: torch.Tensor,
    t: torch.Tensor,
    r: torch.Tensor,
    beta: float,
    weighting: Literal["self", "none"] = "self",
) -> torch.Tensor:
    """Of each edit, float32 (n,).

    Args:
        new, old: velocities (n, ...) at q_t of the policy that learns and of the one that sampled; old has no gradient.
        clean, noise: latents of the edits and the noise that makes q_t = t noise + (1 - t) clean.
        t: noise levels (n,) in 0..1.
        r: optimality probabilities (n,) in 0..1.
        weighting: none: mean square errors of the velocity. self: of the picture q_t - t v+ (or v-), each over its own
            mean absolute error, held constant, as DiffusionNFT's code does: no noise level drowns the others.
    """
    new, old, target = new.float(), old.float().detach(), (noise - clean).float()
    good = _error((1 - beta) * old + beta * new - target, t, weighting)
    bad = _error((1 + beta) * old - beta * new - target, t, weighting)
    r = r.to(good)
    return r * good + (1 - r) * bad


def _error(difference: torch.Tensor, t: torch.Tensor, weighting: str) -> torch.Tensor:
    if weighting == "none":
        return difference.square().flatten(1).mean(1)
    # q_t - t v differs from the edit by t times what v differs from the true velocity.
    picture = (difference * t.to(difference).view(-1, *[1] * (difference.dim() - 1))).flatten(1)
    return picture.square().mean(1) / picture.detach().abs().mean(1).clamp_min(LEAST_ERROR)


def distance(new: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """Mean square difference to the velocity before post-training, float32 (n,): up to a factor that depends on t, the
    Kullback-Leibler divergence of the two policies' denoising steps."""
    return (new.float() - start.float().detach()).square().flatten(1).mean(1)
