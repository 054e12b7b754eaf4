"""The trainer's loss, noise levels and learning rate, against formulas written by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ugaf.trainer import flow
from ugaf.trainer.settings import FlowSettings

pytestmark = pytest.mark.torch


def test_the_loss_is_that_of_a_hand_written_reference() -> None:
    rng = np.random.default_rng(0)
    clean, noise = rng.normal(size=(2, 3, 2, 4, 4)).astype(np.float32)
    model = rng.normal(size=(4, 4)).astype(np.float32)
    t = np.array([0.1, 0.5, 0.95], np.float32)
    expected = []
    for one, eps, level in zip(clean, noise, t, strict=True):
        shown = level * eps + (1 - level) * one
        said = shown @ model
        total, count = 0.0, 0
        for c in range(2):
            for y in range(4):
                for x in range(4):
                    total += float(said[c, y, x] - (eps[c, y, x] - one[c, y, x])) ** 2
                    count += 1
        expected.append(total / count * 2 / (math.pi * (1 - 2 * level + 2 * level**2)))
    given_clean, given_noise, given_t = (torch.from_numpy(x) for x in (clean, noise, t))
    said = flow.noisy(given_clean, given_noise, given_t) @ torch.from_numpy(model)
    found = flow.losses(said, given_clean, given_noise, given_t, FlowSettings(weighting="cosmap"))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4)


def test_going_along_the_velocity_leads_from_noise_to_the_target() -> None:
    clean, noise = torch.randn(2, 1, 4, 4, 4)
    half = flow.noisy(clean, noise, torch.tensor([0.5]))
    torch.testing.assert_close(half - 0.5 * flow.velocity(clean, noise), clean)
    assert torch.equal(flow.noisy(clean, noise, torch.ones(1)), noise)


def test_weights_follow_their_formulas() -> None:
    t = torch.tensor([0.25, 0.5])
    assert flow.weights(t, FlowSettings(weighting="none")).tolist() == [1, 1]
    assert flow.weights(t, FlowSettings(weighting="sigma_sqrt")).tolist() == [16, 4]
    assert flow.weights(t, FlowSettings(weighting="cosmap"))[1].item() == pytest.approx(4 / math.pi)


@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize("kind", ["uniform", "logit_normal"])
def test_noise_levels_have_the_distribution_that_was_asked_for(kind: str, stratified: bool) -> None:
    wanted = FlowSettings(timesteps=kind, mean=0.3, std=1.2, stratified=stratified)
    drawn = torch.cat([flow.timesteps(wanted, 0, step, range(16), 16) for step in range(250)]).double().numpy()
    if kind == "uniform":
        law = stats.uniform()
    else:
        law = None
        drawn = np.log(drawn / (1 - drawn))
    result = stats.kstest(drawn, law.cdf if law else stats.norm(0.3, 1.2).cdf)
    assert result.pvalue > 1e-3


def test_the_shift_moves_towards_noise() -> None:
    plain = flow.timesteps(FlowSettings(timesteps="uniform"), 0, 3, range(8), 8).double()
    shifted = flow.timesteps(FlowSettings(timesteps="uniform", shift=3), 0, 3, range(8), 8).double()
    torch.testing.assert_close(shifted, 3 * plain / (1 + 2 * plain), rtol=1e-5, atol=1e-6)


@settings(deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 10**6), st.integers(1, 40))
def test_a_step_has_one_noise_level_in_every_stratum(seed: int, step: int, count: int) -> None:
    drawn = flow.timesteps(FlowSettings(timesteps="uniform"), seed, step, range(count), count).double().numpy()
    assert sorted(np.minimum(np.floor(drawn * count + 1e-6), count - 1).tolist()) == list(range(count))


def test_strata_rotate_over_places() -> None:
    wanted = FlowSettings(timesteps="uniform")
    seen = [int(float(flow.timesteps(wanted, 0, step, [2], 8)) * 8) for step in range(8)]
    assert sorted(seen) == list(range(8))


def test_noise_and_levels_do_not_depend_on_who_works_on_a_sample() -> None:
    wanted = FlowSettings()
    together = flow.noise_of((2, 4, 4), 7, 3, range(6))
    apart = torch.cat([flow.noise_of((2, 4, 4), 7, 3, part) for part in ([0, 1], [2, 3, 4], [5])])
    assert torch.equal(together, apart)
    levels = flow.timesteps(wanted, 7, 3, range(6), 6)
    assert torch.equal(levels, torch.cat([flow.timesteps(wanted, 7, 3, [place], 6) for place in range(6)]))
    assert not torch.equal(together, flow.noise_of((2, 4, 4), 7, 4, range(6)))
    assert not torch.equal(together, flow.noise_of((2, 4, 4), 8, 3, range(6)))
    assert torch.std(torch.stack([flow.noise_of((2, 4, 4), 0, step, [0]) for step in range(200)])) == pytest.approx(
        1, abs=0.03
    )
