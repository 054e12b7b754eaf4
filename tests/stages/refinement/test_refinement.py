"""Entropy, verification and quality: values against independent formulas, and good and bad pairs told apart."""

from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.stats import entropy
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from ugaf.stages.refinement.change_mask import ChangeMask
from ugaf.stages.refinement.rgb_entropy import RgbEntropy
from ugaf.stages.refinement.score import Score
from ugaf.stages.refinement.verify import Verify

from ugaf.base.errors import ConfigError
from ugaf.imaging import images
from ugaf.measures import photometry, quality
from ugaf.measures.verification import Verdict, ramp, worst
from ugaf.models.scorers.interface import Pair
from ugaf.models.scorers.measures import MeasureScorer
from ugaf.stage import Row, Stage

STAGES: list[Stage] = [
    stage(f"refinement.{name}")
    for name, stage in (("change_mask", ChangeMask), ("rgb_entropy", RgbEntropy), ("verify", Verify), ("score", Score))
]
TEAL = (0, 128, 128)


@pytest.fixture(scope="module", autouse=True)
def _ready() -> None:
    for stage in STAGES:
        stage.setup()


def refine(source: np.ndarray, edited: np.ndarray, **values: Any) -> tuple[dict[str, Any], set[str]]:
    """The columns of all four stages, and the names of the stages whose default keep rules the pair breaks."""
    columns = {"image": images.encode(source), "edited_image": images.encode(edited), "instruction": "", "task": None}
    row = Row("pair", {**columns, "boxes": [], **values})
    broken = set()
    for stage in STAGES:
        outcome = stage([row])[0]
        assert isinstance(outcome, dict), outcome
        assert set(outcome) == set(stage.schema.names)
        row.values.update(outcome)
        for column, rule in stage.keep.items():
            value = outcome[column]
            if value is not None and not rule.get("min", -np.inf) <= value <= rule.get("max", np.inf):
                broken.add(stage.name.removeprefix("refinement."))
    return row.values, broken


def ellipse(photo: np.ndarray, x: float, y: float, rx: float, ry: float) -> np.ndarray:
    height, width = photo.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    return np.asarray(((columns / width - x) / rx) ** 2 + ((rows / height - y) / ry) ** 2 < 1)


def recoloured(photo: np.ndarray, mask: np.ndarray, rgb: tuple[int, int, int]) -> np.ndarray:
    lab = cv2.cvtColor(photo, cv2.COLOR_RGB2LAB)
    lab[..., 1:] = cv2.cvtColor(np.array([[rgb]], np.uint8), cv2.COLOR_RGB2LAB)[0, 0, 1:]
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.5)[..., None]
    return (photo * (1 - soft) + cv2.cvtColor(lab, cv2.COLOR_LAB2RGB) * soft + 0.5).astype(np.uint8)


def recolour_row(photo: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    mask = ellipse(photo, 0.45, 0.5, 0.2, 0.25)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
    params = {"object": 0, "colour": "teal", "rgb": list(TEAL), "from": "red"}
    return mask, {"task": "recolor", "boxes": [box], "params": json.dumps(params)}


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
def test_a_good_pair_passes_and_each_bad_one_fails_where_it_should(photos: dict[str, np.ndarray], name: str) -> None:
    photo = photos[name]
    mask, row = recolour_row(photo)
    good = recoloured(photo, mask, TEAL)
    values, broken = refine(photo, good, **row)
    assert not broken, values
    assert values["background_psnr"] == 100

    assert {"change_mask", "verify"} <= refine(photo, photo.copy(), **row)[1]
    elsewhere = recoloured(photo, ellipse(photo, 0.85, 0.15, 0.12, 0.12), TEAL)
    assert "change_mask" in refine(photo, elsewhere, **row)[1]
    assert refine(photo, recoloured(photo, mask, (220, 30, 200)), **row)[1] == {"verify"}
    assert "score" in refine(photo, cv2.GaussianBlur(good, (0, 0), 2.5), **row)[1]
    assert "rgb_entropy" in refine(photo, np.full_like(photo, 90), **row)[1]

    x1, y1, x2, y2 = row["boxes"][0]
    pasted = photo.copy()
    pasted[y1:y2, x1:x2] = np.clip(good[y1:y2, x1:x2].astype(int) + 45, 0, 255)
    seamed, broken = refine(photo, pasted, **row)
    assert broken == {"score"}
    assert seamed["seams"] > 0.7
    assert values["seams"] < 0.1


@pytest.mark.parametrize(("asked", "passes"), [("warmer", True), ("cooler", False)])
def test_a_tone_is_judged_in_its_own_direction(photos: dict[str, np.ndarray], asked: str, passes: bool) -> None:
    photo = photos["chelsea"]
    warm = np.clip(photo * np.array([1.12, 1.0, 0.8]), 0, 255).astype(np.uint8)
    values, broken = refine(photo, warm, task="tone", params=json.dumps({"tone": asked}))
    assert ("verify" not in broken) is passes
    assert values["change_area"] > 0.8
    assert values["local_score"] is None


def test_black_and_white_is_no_tone_of_a_grey_photograph(photos: dict[str, np.ndarray]) -> None:
    photo = photos["coffee"]
    grey = np.repeat(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    row = {"task": "tone", "params": json.dumps({"tone": "black and white"})}
    assert refine(photo, grey, **row)[0]["global_score"] == 5
    assert refine(grey, np.clip(grey.astype(int) + 12, 0, 255).astype(np.uint8), **row)[0]["global_score"] == 1


def degraded(photo: np.ndarray, degradation: str) -> np.ndarray:
    if degradation == "noise":
        noise = np.random.default_rng(0).normal(0, 14, photo.shape)
        return np.clip(photo + noise, 0, 255).astype(np.uint8)
    if degradation == "jpeg":
        return cv2.imdecode(cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, 15])[1], cv2.IMREAD_COLOR)
    return cv2.GaussianBlur(photo, (0, 0), 2.0)


@pytest.mark.parametrize("degradation", ["noise", "jpeg", "blur"])
def test_restoring_passes_and_degrading_does_not(photos: dict[str, np.ndarray], degradation: str) -> None:
    photo = photos["motorcycle"]
    bad = degraded(photo, degradation)
    row = {"task": "restore", "params": json.dumps({"degradation": degradation, "strength": 0.5})}
    assert not refine(bad, photo, **row)[1]
    assert "verify" in refine(photo, bad, **row)[1]


def test_removing_and_adding_are_each_other_s_inverse(photos: dict[str, np.ndarray]) -> None:
    plain = np.full((400, 600, 3), (120, 150, 190), np.uint8)
    plain = np.clip(plain + np.random.default_rng(1).normal(0, 4, plain.shape), 0, 255).astype(np.uint8)
    mask = ellipse(plain, 0.5, 0.5, 0.15, 0.2)
    thing = np.where(mask[..., None], cv2.resize(photos["astronaut"], (600, 400)), plain)
    row = {"boxes": [[210, 120, 390, 280]], "params": '{"object": 0}'}
    assert refine(thing, plain, task="remove", **row)[0]["local_score"] >= 4
    assert refine(plain, thing, task="add", **row)[0]["local_score"] >= 4
    assert refine(plain, thing, task="remove", **row)[0]["local_score"] <= 2
    assert refine(thing, plain, task="add", **row)[0]["local_score"] <= 2


def test_the_object_of_a_background_edit_must_be_kept(photos: dict[str, np.ndarray]) -> None:
    photo = photos["astronaut"]
    mask = ellipse(photo, 0.5, 0.5, 0.25, 0.3)
    box = [128, 102, 384, 410]
    thing = {"box": box, "label": None, "score": 1.0, "mask": images.encode_mask(mask[102:410, 128:384])}
    row = {"task": "background", "objects": [thing], "params": '{"object": 0, "background": "greyscale"}'}
    new = cv2.GaussianBlur(photos["coffee"], (0, 0), 1)[:400, :512]
    backdrop = cv2.resize(new, (512, 512))
    assert refine(photo, np.where(mask[..., None], photo, backdrop), **row)[0]["global_score"] >= 4
    assert refine(photo, np.where(mask[..., None], backdrop, photo), **row)[0]["global_score"] < 2


def test_each_operation_of_a_hybrid_is_judged(photos: dict[str, np.ndarray]) -> None:
    photo = photos["coffee"]
    first, second = ellipse(photo, 0.25, 0.3, 0.12, 0.15), ellipse(photo, 0.75, 0.7, 0.12, 0.15)
    boxes = [[78, 60, 222, 180], [378, 220, 522, 340]]
    operations = [{"task": "recolor", "object": i, "rgb": list(TEAL)} for i in (0, 1)]
    row = {"task": "hybrid", "boxes": boxes, "params": json.dumps({"operations": operations})}
    one = recoloured(photo, first, TEAL)
    assert refine(photo, one, **row)[0]["local_score"] == 1
    assert refine(photo, recoloured(one, second, TEAL), **row)[0]["local_score"] >= 4


def test_a_pair_from_elsewhere_is_scored_on_what_can_be_measured(photos: dict[str, np.ndarray]) -> None:
    photo = photos["astronaut"]
    mask, _ = recolour_row(photo)
    values, broken = refine(photo, recoloured(photo, mask, TEAL))
    assert values["verifier"] == "rules"
    assert values["iou"] is None
    assert values["local_score"] is None
    assert values["local_reason"] == "no target box"
    assert values["global_score"] == 5
    assert not broken
    unknown, _ = refine(photo, 255 - photo, task="style")
    assert unknown["global_score"] is None
    assert "no rule" in unknown["global_reason"]


def test_damaged_params_fail_the_row_with_a_reason(photos: dict[str, np.ndarray]) -> None:
    photo = photos["chelsea"]
    row = Row("x", {"image": images.encode(photo), "edited_image": None, "task": "tone", "boxes": [], "params": "{"})
    row.values.update(STAGES[0].process(row))
    outcome = STAGES[2]([row])[0]
    assert "params is not JSON" in str(outcome)


def test_entropy_is_shannon_s(photos: dict[str, np.ndarray]) -> None:
    photo = photos["rocket"]
    expected = np.mean([entropy(np.bincount(photo[..., c].ravel(), minlength=256), base=2) for c in range(3)])
    assert photometry.rgb_entropy(photo) == pytest.approx(expected)
    assert photometry.rgb_entropy(np.full((9, 9, 3), 7, np.uint8)) == 0
    levels = np.repeat(np.arange(256, dtype=np.uint8), 4).reshape(32, 32)
    assert photometry.rgb_entropy(np.stack([levels] * 3, axis=2)) == pytest.approx(8)


def test_psnr_and_ssim_agree_with_scikit_image(photos: dict[str, np.ndarray]) -> None:
    photo = photos["coffee"]
    blurred = cv2.GaussianBlur(photo, (0, 0), 1.5)
    everywhere = np.ones(photo.shape[:2], bool)
    assert quality.psnr(photo, blurred, everywhere) == pytest.approx(peak_signal_noise_ratio(photo, blurred), abs=1e-3)
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (photo, blurred)]
    expected = structural_similarity(
        *grey, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert quality.ssim(photo, blurred, everywhere) == pytest.approx(expected, abs=0.003)
    assert quality.psnr(photo, photo, everywhere) == quality.PSNR_CAP
    assert quality.psnr(photo, photo, ~everywhere) is None


def test_noise_sigma_reads_added_noise(photos: dict[str, np.ndarray]) -> None:
    light = cv2.GaussianBlur(quality.lightness(photos["chelsea"]), (0, 0), 3)
    noisy = light + np.random.default_rng(0).normal(0, 3, light.shape).astype(np.float32)
    everywhere = np.ones(light.shape, bool)
    assert quality.noise_sigma(noisy, everywhere) == pytest.approx(3, rel=0.1)


def test_sharpness_loss_is_in_octaves_and_never_negative(photos: dict[str, np.ndarray]) -> None:
    light = quality.lightness(photos["motorcycle"])
    nothing = np.zeros(light.shape, bool)
    soft = cv2.GaussianBlur(light, (0, 0), 1.0)
    halved = soft + 0.5 * (light - soft)
    assert quality.sharpness_loss(light, light, nothing) == 0
    assert quality.sharpness_loss(halved, light, nothing) == 0
    assert 0.3 < quality.sharpness_loss(light, halved, nothing) < 1.1
    assert quality.sharpness_loss(light, cv2.GaussianBlur(light, (0, 0), 4), nothing) > 2


def test_quality_is_its_formula(photos: dict[str, np.ndarray]) -> None:
    photo = photos["chelsea"]
    pair = Pair(photo, cv2.GaussianBlur(photo, (0, 0), 1), np.zeros(photo.shape[:2], bool), "", "recolor", ())
    scores = MeasureScorer().score([pair])[0]
    assert isinstance(scores, dict)
    expected = 10 * (1 - scores["artifacts"]) * (1 - scores["seams"]) * 2 ** -scores["sharpness_loss"]
    assert scores["quality"] == pytest.approx(expected)
    assert 0 < scores["quality"] < 9


def test_an_unknown_scorer_is_refused_with_the_nearest_name() -> None:
    with pytest.raises((ConfigError, ValueError), match="did you mean 'measures'"):
        Score.Settings(scorer={"engine": "measure"})


def test_an_unknown_verifier_is_refused_with_the_nearest_name() -> None:
    with pytest.raises((ConfigError, ValueError), match="did you mean 'rules'"):
        Verify.Settings(verifier={"engine": "rule"})


def test_without_a_model_its_columns_are_null(photos: dict[str, np.ndarray]) -> None:
    photo = photos["chelsea"]
    mask, row = recolour_row(photo)
    values, _ = refine(photo, recoloured(photo, mask, TEAL), **row)
    model_s = ["ratings", "scores", "tokens_in", "tokens_out", "thinking"]
    assert [values[f"verifier_{name}"] for name in model_s] == [None] * 5
    model_s = ["semantic_consistency", "perceptual_quality", "quality_spread", "quality_reason", "scorer_tokens_in"]
    assert [values[name] for name in model_s] == [None] * 5
    assert values["scorer"] == "measures"


def test_a_row_that_cannot_be_prepared_costs_no_other(photos: dict[str, np.ndarray]) -> None:
    photo = photos["chelsea"]
    mask, row = recolour_row(photo)
    values, _ = refine(photo, recoloured(photo, mask, TEAL), **row)
    broken = Row("broken", {**values, "change_mask": images.encode_mask(np.zeros((2, 2), bool))})
    for stage in STAGES[2:]:
        first, second, third = stage([Row("a", dict(values)), broken, Row("b", dict(values))])
        assert first == third
        assert first == {name: values[name] for name in stage.schema.names}
        assert "change_mask is 2 x 2, the source 451 x 300: run refinement.change_mask again" in str(second)


def test_ramp_and_worst() -> None:
    assert [ramp(v, (0, 1, 2, 3, 4)) for v in (-1, 0, 2.5, 9)] == [1, 1, 3.5, 5]
    assert ramp(10, (12, 8, 5, 3, 1)) == 1.5
    assert worst([Verdict(4, "a"), Verdict(None, "b"), Verdict(2, "c")]) == Verdict(2, "c")
    assert worst([Verdict(None, "b")]).score is None
