"""DPO for flow matching with positive-sample reinforcement (FireRed-Image-Edit, arXiv 2602.13344, section 3.6.1).

Equation 2 of the paper, with L the flow-matching loss of an edit under the policy that learns or the reference:

    loss = - log sigmoid(beta [(L_loser - L_loser_ref) - omega (L_winner - L_winner_ref)]) + lambda L_winner

(The paper prints minus lambda L_winner, outside of the expectation. Taken at its word that would make winners worse,
which the text is against: it is read as a misprint.) omega > 1 and lambda keep winners from getting worse together with
losers, which plain DPO (Diffusion-DPO, arXiv 2311.12908, without both) lets happen. The reference is the model before
post-training. Winner and loser of a pair share noise and noise level, as in Diffusion-DPO; the paper does not say.

Ours: pairs are made of the groups that the model samples for itself, where the paper takes winners from other, better
models ("mix policy"); `dpo.winners: target` takes the shards' own edit for that. The paper's semi-hard mining picks
instructions that are done well on average and badly at worst: that is `mining`, for either method. In its spirit
`dpo.losers: semi_hard` takes as a winner's loser the best edit that is clearly worse, not the worst of all.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch.nn import functional


def losses(
    winner: torch.Tensor,
    loser: torch.Tensor,
    winner_reference: torch.Tensor,
    loser_reference: torch.Tensor,
    beta: float,
    omega: float,
    reinforcement: float,
) -> torch.Tensor:
    """Of each pair, float32 (n,), from the flow-matching losses (n,) of both edits under policy and reference."""
    margin = (loser - loser_reference.detach()) - omega * (winner - winner_reference.detach())
    return -functional.logsigmoid(beta * margin) + reinforcement * winner


def pairs(advantages: np.ndarray, losers: Literal["worst", "semi_hard"], gap: float) -> list[tuple[int, int]]:
    """(winner, loser) of a group, best winners first; each edit is in at most one pair.

    advantages: (members,), NaN for an edit without a reward. A winner is better than its group's mean, and its loser at
    least `gap` worse than it: of those the worst or, semi-hard, the best.
    """
    order = [int(member) for member in np.argsort(-advantages, kind="stable") if not np.isnan(advantages[member])]
    free, found = list(order), []
    for winner in order:
        if winner not in free or advantages[winner] <= 0:
            continue
        below = advantages[winner] - advantages
        worse = [member for member in free if below[member] > 0 and below[member] >= gap]
        if worse:
            loser = worse[-1] if losers == "worst" else worse[0]
            found.append((winner, loser))
            free = [member for member in free if member not in (winner, loser)]
    return found
