"""DiffusionNFT's and DPO's losses: by value against a slow reference, and by the direction in which they push."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ugaf.trainer import flow
from ugaf.trainer.rl import dpo, nft

pytestmark = pytest.mark.torch


def drawn(count: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(count, 2, 3, 3, generator=generator) for name in ("new", "old", "clean", "noise")}
    return {**tensors, "t": torch.rand(count, generator=generator), "r": torch.rand(count, generator=generator)}


@pytest.mark.parametrize("beta", [0.1, 0.7, 1.0])
@pytest.mark.parametrize("weighting", ["none", "self"])
def test_nft_is_the_formula(beta: float, weighting: str) -> None:
    made = drawn()
    found = nft.losses(**made, beta=beta, weighting=weighting)  # type: ignore[arg-type]
    given_ = {name: value.double().numpy() for name, value in made.items()}
    for n in range(3):
        new, old, clean, noise = (given_[name][n] for name in ("new", "old", "clean", "noise"))
        t, r = given_["t"][n], given_["r"][n]
        noisy, total = t * noise + (1 - t) * clean, 0.0
        for share, said in ((r, (1 - beta) * old + beta * new), (1 - r, (1 + beta) * old - beta * new)):
            if weighting == "none":
                total += share * np.mean((said - (noise - clean)) ** 2)
            else:
                picture = noisy - t * said
                total += share * np.mean((picture - clean) ** 2) / np.mean(np.abs(picture - clean))
        assert found[n].item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("weighting", ["none", "self"])
@pytest.mark.parametrize(("r", "sign"), [(1.0, 1.0), (0.8, 1.0), (0.2, -1.0), (0.0, -1.0)])
def test_a_good_edit_pulls_the_velocity_and_a_bad_one_pushes_it(weighting: str, r: float, sign: float) -> None:
    made = drawn(1) | {"r": torch.tensor([r])}
    made["new"] = made["old"].clone().requires_grad_()
    nft.losses(**made, beta=0.5, weighting=weighting).sum().backward()  # type: ignore[arg-type]
    towards = (made["noise"] - made["clean"] - made["old"]).flatten()
    step = -made["new"].grad.flatten()  # type: ignore[union-attr]
    cosine = torch.nn.functional.cosine_similarity(step, towards, dim=0).item()
    assert cosine == pytest.approx(sign, abs=1e-5)


@pytest.mark.parametrize("weighting", ["none", "self"])
def test_a_neutral_edit_does_not_move_the_policy_that_sampled_it(weighting: str) -> None:
    made = drawn() | {"r": torch.full((3,), 0.5)}
    made["new"] = made["old"].clone().requires_grad_()
    nft.losses(**made, beta=0.3, weighting=weighting).sum().backward()  # type: ignore[arg-type]
    assert made["new"].grad.abs().max() < 1e-7  # type: ignore[union-attr]


@pytest.mark.parametrize("r", [0.0, 0.25, 0.9, 1.0])
def test_the_minimum_is_where_the_paper_says(r: float) -> None:
    """v* = v_old + (2r - 1) (u - v_old) / beta."""
    made, beta = drawn(1) | {"r": torch.tensor([r])}, 0.4
    target = made["noise"] - made["clean"]
    best = made["old"] + (2 * r - 1) * (target - made["old"]) / beta
    made["new"] = best.clone().requires_grad_()
    nft.losses(**made, beta=beta, weighting="none").sum().backward()
    assert made["new"].grad.abs().max() < 1e-6  # type: ignore[union-attr]


def test_the_policy_that_sampled_gets_no_gradient() -> None:
    made = drawn()
    made["old"].requires_grad_()
    made["new"].requires_grad_()
    nft.losses(**made, beta=0.5).sum().backward()
    assert made["old"].grad is None
    assert made["new"].grad is not None


def test_no_noise_level_makes_the_loss_unbounded() -> None:
    made = drawn(2) | {"t": torch.tensor([0.0, 1e-6])}
    assert nft.losses(**made, beta=1.0).isfinite().all()


def test_distance_is_the_mean_square() -> None:
    a, b = torch.zeros(2, 1, 2, 2), torch.tensor([1.0, 3.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    assert nft.distance(a, b).tolist() == [1.0, 9.0]


# DPO ------------------------------------------------------------------------------------------------------------------


def test_dpo_is_the_formula() -> None:
    winner, loser, winner_ref, loser_ref = 0.30, 0.50, 0.35, 0.45
    values = [torch.tensor([value]) for value in (winner, loser, winner_ref, loser_ref)]
    margin = 7.0 * ((loser - loser_ref) - 1.5 * (winner - winner_ref))
    expected = math.log(1 + math.exp(-margin)) + 0.2 * winner
    assert dpo.losses(*values, beta=7.0, omega=1.5, reinforcement=0.2).item() == pytest.approx(expected, rel=1e-5)


def test_at_the_reference_winner_and_loser_pull_by_omega_and_lambda() -> None:
    winner, loser = torch.tensor([0.4], requires_grad=True), torch.tensor([0.6], requires_grad=True)
    dpo.losses(winner, loser, winner, loser, beta=10.0, omega=2.0, reinforcement=0.3).sum().backward()
    assert winner.grad is not None
    assert loser.grad is not None
    assert winner.grad.item() == pytest.approx(10 * 2 * 0.5 + 0.3)
    assert loser.grad.item() == pytest.approx(-10 * 0.5)


def test_losses_that_rise_together_are_punished_with_omega_where_plain_dpo_is_indifferent() -> None:
    reference = torch.tensor([0.5])
    both = torch.tensor([0.6])
    plain = [dpo.losses(x, x, reference, reference, 10.0, 1.0, 0.0).item() for x in (reference, both)]
    ours = [dpo.losses(x, x, reference, reference, 10.0, 1.5, 0.0).item() for x in (reference, both)]
    assert plain[0] == pytest.approx(plain[1])
    assert ours[1] > ours[0]


def test_pairs_by_hand() -> None:
    each = np.array([2.0, -0.1, -2.0, 0.9, np.nan, -0.5])
    assert dpo.pairs(each, "worst", 1.0) == [(0, 2), (3, 5)]
    assert dpo.pairs(each, "semi_hard", 1.0) == [(0, 3)]
    assert dpo.pairs(each, "semi_hard", 1.5) == [(0, 1), (3, 2)]
    assert dpo.pairs(np.array([0.2, -0.2]), "worst", 1.0) == []
    assert dpo.pairs(np.zeros(4), "semi_hard", 0.0) == []


@given(
    st.lists(st.one_of(st.floats(-3, 3), st.just(math.nan)), min_size=2, max_size=12),
    st.sampled_from(["worst", "semi_hard"]),
    st.floats(0, 3),
)
def test_pairs_are_apart_disjoint_and_the_winner_above_average(values: list[float], losers: str, gap: float) -> None:
    each = np.array(values)
    found = dpo.pairs(each, losers, gap)  # type: ignore[arg-type]
    used = [member for pair in found for member in pair]
    assert len(used) == len(set(used))
    assert len(found) <= len(values) // 2
    for winner, loser in found:
        assert each[winner] > 0
        assert each[winner] > each[loser]
        assert each[winner] - each[loser] >= gap


def test_noise_levels_of_one_edit_are_spread_over_the_whole_range() -> None:
    """Places of an edit's levels are far apart, and strata follow places: see `learning.parts_of`."""
    levels, groups, each = 8, 3, 4
    settings = flow.FlowSettings(timesteps="uniform")
    places = [(level * groups + 1) * each + 2 for level in range(levels)]
    t = flow.timesteps(settings, 0, 5, places, levels * groups * each).sort().values
    assert (t.diff() > 0.5 / levels).all()
    assert t[0] < 0.3
    assert t[-1] > 0.7
