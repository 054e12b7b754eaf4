"""Rewards: what a scorer sees, to the pixel; how scores become a reward; and that a missing score stays missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ugaf.stage import Failure
from ugaf.trainer.rl import measures
from ugaf.trainer.rl.advantages import EPS, advantages, centred, group_scale, optimality, semi_hard
from ugaf.trainer.rl.measures import Measures
from ugaf.trainer.rl.rewards import HIDDEN, LEVEL, Case, normalised, only, rewards

pytestmark = pytest.mark.torch

SIDE = 24
NUMBERS = st.floats(-1e3, 1e3, allow_subnormal=False)


class Fixed:
    """Scores by a function of part and member; a string is a failure."""

    def __init__(self, say: Callable[[str, int], float | str]) -> None:
        self.say = say
        self.asked: list[tuple[str, ...]] = []

    def score(self, case: Case, parts: Sequence[Any]) -> list[Any]:
        self.asked.append(tuple(parts))
        found = []
        for member in range(len(case.outputs)):
            said = {part: self.say(part, member) for part in parts}
            bad = next((text for text in said.values() if isinstance(text, str)), None)
            found.append(said if bad is None else Failure("Unreadable", bad))
        return found


def case(outputs: int = 4, local: bool = True, damage: Sequence[int] | None = None) -> Case:
    """A pair whose box becomes white; output k differs from the target by `damage[k]` outside of the box."""
    rng = np.random.default_rng(3)
    source = rng.integers(60, 190, (SIDE, SIDE, 3)).astype(np.uint8)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[4:12, 6:18] = True
    if not local:
        mask[:] = True
    target = source.copy()
    target[mask] = 255
    made = []
    for number in range(outputs):
        output = target.copy()
        output[~mask] += np.uint8(damage[number] if damage else number)
        made.append(output)
    return Case("one", "Make it white.", source, target, mask, made, list(range(outputs)))


def test_a_scorer_sees_its_part_to_the_pixel_and_nothing_else() -> None:
    one = case()
    region, background = (only(one.source, mask) for mask in (one.roi_mask, one.background_mask))
    for y in range(SIDE):
        for x in range(SIDE):
            inside = 4 <= y < 12 and 6 <= x < 18
            assert (region[y, x] == (one.source[y, x] if inside else HIDDEN)).all()
            assert (background[y, x] == (HIDDEN if inside else one.source[y, x])).all()


def test_the_decoupled_reward_is_region_plus_background_plus_psi() -> None:
    one = case(4, damage=[0, 2, 5, 20])
    scorer = Fixed(lambda part, member: {"region": 0.1, "background": 0.5}[part] + member / 10)
    found = rewards(one, scorer, "decoupled")
    assert scorer.asked == [("region", "background")]
    errors = [0, 2, 5, 20]
    psnr = [100.0, *(10 * np.log10(255**2 / error**2) for error in errors[1:])]
    np.testing.assert_allclose(found.psnr, psnr, rtol=1e-5)
    psi = [(value - psnr[3]) / (psnr[0] - psnr[3]) for value in psnr]
    np.testing.assert_allclose(found.parts["psi"], psi, rtol=1e-5)
    np.testing.assert_allclose(found.reward, [0.6 + member / 5 + psi[member] for member in range(4)], rtol=1e-5)


def test_the_global_reward_is_one_score() -> None:
    scorer = Fixed(lambda _, member: member / 4)
    found = rewards(case(4), scorer, "global")
    assert scorer.asked == [("whole",)]
    np.testing.assert_allclose(found.reward, [0, 0.25, 0.5, 0.75])
    assert set(found.parts) == {"whole"}
    assert np.isfinite(found.psnr).all()


def test_an_edit_of_the_whole_canvas_has_no_background() -> None:
    scorer = Fixed(lambda *_: 0.5)
    found = rewards(case(3, local=False), scorer, "decoupled")
    assert scorer.asked == [("region",)]
    np.testing.assert_allclose(found.reward, [0.5] * 3)
    assert np.isnan(found.psnr).all()


def test_an_edit_without_a_score_is_left_out_and_changes_nobody_elses_psi() -> None:
    damage = [0, 9, 3, 20]
    scorer = Fixed(lambda part, member: "no JSON" if member in (0, 3) and part == "background" else 0.5)
    found = rewards(case(4, damage=damage), scorer, "decoupled")
    assert [(member, failure.message) for member, failure in found.failures] == [(0, "no JSON"), (3, "no JSON")]
    np.testing.assert_array_equal(np.isnan(found.reward), [True, False, False, True])
    np.testing.assert_allclose(found.parts["psi"][1:3], [0, 1])


@given(arrays.arrays(np.float64, st.integers(1, 9), elements=NUMBERS))
def test_psi_is_0_to_1_keeps_the_order_and_does_not_depend_on_unit_or_origin(values: np.ndarray) -> None:
    found = normalised(values)
    assert ((found >= 0) & (found <= 1)).all()
    if values.max() > values.min():
        assert found[values.argmin()] == 0
        assert found[values.argmax()] == 1
        assert (np.diff(found[np.argsort(values)]) >= 0).all()
    else:
        assert (found == LEVEL).all()
    if np.ptp(values) > 1e-3:
        np.testing.assert_allclose(normalised(2 * values + 7), found, atol=1e-6)


def test_psi_of_a_group_that_keeps_its_backgrounds_equally_prefers_nobody() -> None:
    np.testing.assert_array_equal(normalised(np.array([40.0, 40.0, np.nan])), [LEVEL, LEVEL, np.nan])
    assert np.isnan(normalised(np.array([np.nan, np.nan]))).all()


def test_measures_see_the_edit_and_the_background_apart() -> None:
    one = case(4, damage=[0, 0, 0, 30])
    blank = one.source.copy()
    half = one.source.copy()
    half[4:8, 6:18] = 255
    outputs = [one.target, half, blank, one.outputs[3]]
    one = Case(one.id, one.instruction, one.source, one.target, one.roi_mask, outputs, one.seeds)
    found = Measures().score(one, ("region", "background", "whole"))
    region, background, whole = ([scores[part] for scores in found] for part in ("region", "background", "whole"))
    assert region[0] == region[3] == 1
    assert region[0] > region[1] > region[2]
    assert background[0] == background[1] == background[2] == 1 > background[3]
    assert whole[0] == pytest.approx(1)
    assert 0.3 < whole[1] < 0.7
    assert whole[2] == 0
    shuffled = np.random.default_rng(0).permutation(one.target.reshape(-1, 3)).reshape(one.target.shape)
    elsewhere = Case(one.id, one.instruction, one.source, one.target, one.roi_mask, [shuffled], [0])
    assert Measures().score(elsewhere, ("whole",)) == [{"whole": pytest.approx(1)}]


@pytest.mark.parametrize(("psnr", "worth"), [(0.0, 0.0), (25.0, 0.5), (60.0, 1.0), (None, 1.0)])
def test_what_a_psnr_is_worth(psnr: float | None, worth: float) -> None:
    assert measures.ramp(psnr) == pytest.approx(worth)


@given(arrays.arrays(np.uint8, (4, 5, 3)))
def test_a_histogram_counts_every_pixel_once_and_keeps_the_mean_colour(image: np.ndarray) -> None:
    found = measures.histogram(image)
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1)
    nodes = np.stack(np.meshgrid(*[np.linspace(0, 255, measures.NODES)] * 3, indexing="ij"), -1).reshape(-1, 3)
    np.testing.assert_allclose(found @ nodes, image.reshape(-1, 3).mean(0), atol=1e-6)


# Advantages -----------------------------------------------------------------------------------------------------------


def test_advantages_by_hand() -> None:
    given_ = np.array([[1.0, 2.0, 3.0], [5.0, np.nan, 7.0], [4.0, np.nan, np.nan]])
    np.testing.assert_allclose(centred(given_), [[-1, 0, 1], [-1, np.nan, 1], [np.nan] * 3])
    np.testing.assert_allclose(group_scale(given_)[:2, 0], [np.sqrt(2 / 3), 1])
    np.testing.assert_allclose(advantages(given_, 2.0)[0], np.array([-1, 0, 1]) / (2 + EPS))
    by_group = advantages(given_, group_scale(given_))
    np.testing.assert_allclose(by_group[1, [0, 2]], np.array([-1, 1]) / (1 + EPS))


@given(arrays.arrays(np.float64, (3, 5), elements=st.one_of(NUMBERS, st.just(np.nan))))
def test_advantages_of_a_group_sum_to_0_and_stay_missing_where_they_are(values: np.ndarray) -> None:
    found = centred(values)
    np.testing.assert_allclose(np.nansum(found, axis=1), 0, atol=1e-8)
    for before, after in zip(values, found, strict=True):
        lonely = np.isfinite(before).sum() < 2
        np.testing.assert_array_equal(np.isnan(after), np.isnan(before) | lonely)


def test_a_group_whose_edits_are_equally_good_teaches_nothing() -> None:
    equal = np.full((1, 4), 2.5)
    np.testing.assert_array_equal(optimality(advantages(equal, group_scale(equal)), 5), np.full((1, 4), 0.5))


@given(arrays.arrays(np.float64, 6, elements=NUMBERS), st.floats(0.1, 10))
def test_optimality_is_a_probability_neutral_at_0_and_odd_about_it(values: np.ndarray, clip: float) -> None:
    found = optimality(values, clip)
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_allclose(found + optimality(-values, clip), 1)
    np.testing.assert_allclose(optimality(np.array([0.0, clip, -clip, clip / 2]), clip), [0.5, 1, 0, 0.75])


def test_semi_hard_groups_are_good_on_average_and_bad_at_worst() -> None:
    given_ = np.array([[0.9, 0.95, 0.9], [0.9, 0.9, 0.2], [0.1, 0.2, 0.1], [np.nan, np.nan, 0.9], [np.nan] * 3])
    np.testing.assert_array_equal(semi_hard(given_, 0.5, 0.5), [False, True, False, False, False])
    np.testing.assert_array_equal(semi_hard(given_, None, None), [True, True, True, False, False])
