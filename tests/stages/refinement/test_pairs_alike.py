"""Is an edit an edit, and is a pair another pair again? Against formulas, on re-encoded copies, and in runs."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from engine_tools import counts, go, pipeline, table
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageDraw, ImageFont
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from ugaf.stages.refinement.likeness import Likeness

from ugaf.imaging import images
from ugaf.imaging.registration import reduce
from ugaf.measures import likeness, quality, signatures
from ugaf.stage import Row

Pair = tuple[np.ndarray, np.ndarray]
IDENTITY, SAME = Likeness.keep["pair_likeness"]["max"], 0.98
"""The default limits of the two stages."""


def jpeg(rgb: np.ndarray, quality: int) -> np.ndarray:
    """As others write it: with half the colour resolution."""
    out = io.BytesIO()
    Image.fromarray(rgb).save(out, "JPEG", quality=quality)
    return images.decode(out.getvalue())


def scaled(rgb: np.ndarray, factor: float) -> np.ndarray:
    size = round(rgb.shape[1] * factor), round(rgb.shape[0] * factor)
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)


def written(rgb: np.ndarray, text: str, size: int = 40, place: tuple[float, float] = (0.3, 0.4)) -> np.ndarray:
    image = Image.fromarray(rgb)
    at = place[0] * rgb.shape[1], place[1] * rgb.shape[0]
    ImageDraw.Draw(image).text(at, text, fill=(250, 240, 30), font=ImageFont.load_default(size))
    return np.asarray(image)


def tinted(rgb: np.ndarray, colour: tuple[int, int, int], strength: float = 0.6) -> np.ndarray:
    mask = np.zeros(rgb.shape[:2], np.float32)
    height, width = mask.shape
    cv2.ellipse(mask, (width // 2, height // 2), (width // 6, height // 5), 0, 0, 360, strength, -1)
    return (rgb * (1 - mask[..., None]) + mask[..., None] * np.float32(colour)).astype(np.uint8)


def edits(rgb: np.ndarray) -> dict[str, np.ndarray]:
    """Different edits of one photograph."""
    warm = (rgb * [1.1, 1.0, 0.8]).clip(0, 255).astype(np.uint8)
    return {
        "sale": written(rgb, "SALE"),
        "open": written(rgb, "OPEN"),
        "elsewhere": written(rgb, "SALE", place=(0.6, 0.7)),
        "larger": written(rgb, "SALE", 60),
        "red": tinted(rgb, (200, 30, 30)),
        "orange": tinted(rgb, (200, 90, 30)),
        "pale": tinted(rgb, (200, 30, 30), 0.4),
        "warm": warm,
        "grey": np.repeat(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2),
    }


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "jpeg 90": lambda rgb: jpeg(rgb, 90),
    "jpeg 75": lambda rgb: jpeg(rgb, 75),
    "smaller": lambda rgb: scaled(rgb, 0.6),
    "larger": lambda rgb: scaled(rgb, 1.5),
    "smaller, jpeg 80": lambda rgb: jpeg(scaled(rgb, 0.7), 80),
}


@pytest.fixture(scope="module")
def photographs(photos: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """At 400 pixels: a test has dozens of pairs."""
    return {name: reduce(np.ascontiguousarray(photos[name]), 400) for name in ("astronaut", "coffee", "chelsea")}


def outcome(source: np.ndarray, edited: np.ndarray, **columns: Any) -> dict[str, Any]:
    values = {"image": images.encode(source), "edited_image": images.encode(edited), **columns}
    return dict(Likeness("refinement.likeness").process(Row("0" * 32, values)))


def change(first: Pair, second: Pair) -> float:
    packed = [likeness.unpack([likeness.pair_signature(*pair)]) for pair in (first, second)]
    return float(likeness.same_change(*packed)[0])


# -- within a pair -----------------------------------------------------------------------------------------------------


def test_psnr_and_ssim_are_those_of_the_whole_canvas(photographs: dict[str, np.ndarray]) -> None:
    source = photographs["coffee"]
    for name, edited in list(edits(source).items())[::3]:
        found = outcome(source, edited)
        assert found["pair_psnr"] == pytest.approx(peak_signal_noise_ratio(source, edited), rel=1e-4), name
        grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (source, edited)]
        expected = structural_similarity(*grey, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
        # skimage leaves out the border.
        assert found["pair_ssim"] == pytest.approx(expected, abs=0.01), name


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_the_window_that_changed_most_is_found_by_brute_force(source: np.ndarray, seed: int) -> None:
    edited = np.random.default_rng(seed).integers(0, 256, source.shape).astype(np.uint8)
    step = edited.astype(float) - source
    near, far = likeness.WINDOW // 2, likeness.WINDOW - likeness.WINDOW // 2 - 1
    padded = np.pad(step, ((near, far), (near, far), (0, 0)), mode="edge")
    worst = 0.0
    for y, x in itertools.product(range(source.shape[0]), range(source.shape[1])):
        window = padded[y : y + likeness.WINDOW, x : x + likeness.WINDOW].mean(axis=(0, 1))
        worst = max(worst, float((window**2).mean()))
    expected = min(quality.PSNR_CAP, 10 * np.log10(255**2 / worst)) if worst else quality.PSNR_CAP
    assert likeness.local_psnr(source, edited) == pytest.approx(expected, rel=1e-3)


def test_equal_pictures_are_as_alike_as_can_be(photographs: dict[str, np.ndarray]) -> None:
    found = outcome(photographs["coffee"], photographs["coffee"])
    assert (found["pair_psnr"], found["pair_ssim"], found["pair_likeness"]) == (100, pytest.approx(1), 100)


def test_likeness_is_the_lower_of_the_two(photographs: dict[str, np.ndarray]) -> None:
    source = photographs["chelsea"]
    for edited in (written(source, "hi", 20), jpeg(source, 60)):
        found = outcome(source, edited)
        local = likeness.local_psnr(source, edited)
        assert found["pair_likeness"] == pytest.approx(min(found["pair_psnr"], local), rel=1e-6)
    # A word is found by its window, compression by all pixels together.
    assert outcome(source, written(source, "hi", 20))["pair_psnr"] > likeness.local_psnr(
        source, written(source, "hi", 20)
    )
    assert outcome(source, jpeg(source, 60))["pair_psnr"] < likeness.local_psnr(source, jpeg(source, 60))


@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_edits_stay_and_copies_of_the_source_go(photographs: dict[str, np.ndarray], name: str) -> None:
    source = photographs[name]
    small = {
        "a small word": written(source, "ok", 16),
        "a dot": cv2.circle(source.copy(), (90, 90), 6, (255, 0, 0), -1),
    }
    for what, edited in {**edits(source), **small}.items():
        assert outcome(source, edited)["pair_likeness"] < IDENTITY - 1, what
    drifted = np.clip(source.astype(int) + np.array([2, -2, 1]), 0, 255).astype(np.uint8)
    copies = {
        "jpeg 90": jpeg(source, 90),
        "jpeg 75": jpeg(source, 75),
        "drift": drifted,
        "drift and jpeg": jpeg(drifted, 75),
        "smaller": scaled(source, 0.5),
        "larger": scaled(source, 1.3),
    }
    for what, edited in copies.items():
        assert outcome(source, edited)["pair_likeness"] > IDENTITY + 1, what


def test_a_displaced_copy_is_registered_where_the_displacement_is_known(photographs: dict[str, np.ndarray]) -> None:
    source = photographs["astronaut"]
    moved = cv2.warpAffine(
        source, np.float32([[1, 0, 3], [0, 1, -2]]), source.shape[1::-1], borderMode=cv2.BORDER_REFLECT
    )
    plain = outcome(source, moved)
    registered = outcome(source, moved, shift_x=3.0, shift_y=-2.0)
    assert plain["pair_likeness"] < IDENTITY < registered["pair_likeness"]
    assert registered["pair_side"] == plain["pair_side"] == min(source.shape[:2])


def test_the_side_is_the_shorter_of_the_smaller_picture(photographs: dict[str, np.ndarray]) -> None:
    source = photographs["coffee"]
    small = scaled(source, 0.5)
    assert outcome(source, small)["pair_side"] == outcome(small, source)["pair_side"] == small.shape[0]


def test_made_sources_are_compared_with_the_photograph(photographs: dict[str, np.ndarray]) -> None:
    """A removal that is turned round: the photograph is the edited picture."""
    source = photographs["coffee"]
    made = written(source, "made")
    row = Row("0" * 32, {"image": images.encode(source), "edited_image": None, "source_image": images.encode(made)})
    found = Likeness("refinement.likeness").process(row)
    assert found["pair_psnr"] == pytest.approx(outcome(made, source)["pair_psnr"])
    assert found["pair_signature"] == outcome(made, source)["pair_signature"]


# -- signatures --------------------------------------------------------------------------------------------------------


def test_a_signature_is_the_source_s_and_the_change_s_cosines(photographs: dict[str, np.ndarray]) -> None:
    source = photographs["coffee"]
    edited = tinted(source, (200, 30, 30))
    packed = likeness.pair_signature(source, edited)
    assert len(packed) == likeness.BYTES
    luma = cv2.cvtColor(source, cv2.COLOR_RGB2YCrCb)[..., 0]
    assert packed[: signatures.BYTES] == signatures.signature(np.ascontiguousarray(luma))
    top, bottom, left, right = packed[signatures.BYTES : signatures.BYTES + 4]
    height, width = source.shape[:2]
    # Three eighths of the width of the ellipse on each side of the middle, and what the neighbourhood adds.
    assert (top, bottom) == (pytest.approx(32 - 64 / 5, abs=3), pytest.approx(32 + 64 / 5, abs=3))
    assert (left, right) == (pytest.approx(32 - 64 / 6, abs=3), pytest.approx(32 + 64 / 6, abs=3))
    # The coefficients by sums over pixels, of a box whose edges fall on pixels.
    (box,), (waves,) = likeness._unpack(likeness.unpack([packed]))
    planes = [cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb).astype(float) for picture in (source, edited)]
    step = planes[1] - planes[0]
    y, x = (np.arange(height) + 0.5) / height * 64, (np.arange(width) + 0.5) / width * 64
    v, u = (y - top) / (bottom - top), (x - left) / (right - left)
    inside_y, inside_x = (v > 0) & (v < 1), (u > 0) & (u < 1)
    largest = float(np.abs(waves).max())
    for plane, i, j in ((0, 0, 0), (1, 0, 0), (2, 2, 0), (1, 1, 4), (0, 3, 2)):
        wave = (
            (np.sqrt(2) if i else 1) * np.cos(np.pi * i * v)[:, None] * (np.sqrt(2) if j else 1) * np.cos(np.pi * j * u)
        )
        area = height * (bottom - top) / 64 * width * (right - left) / 64
        expected = (step[..., plane] * wave)[inside_y][:, inside_x].sum() / area
        assert waves[plane, i, j] == pytest.approx(expected, abs=0.02 * largest), (plane, i, j)
    assert (box == [top, bottom, left, right]).all()


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
def test_different_edits_of_a_photograph_are_different_pairs(photographs: dict[str, np.ndarray], name: str) -> None:
    source = photographs[name]
    for (one, first), (two, second) in itertools.combinations(edits(source).items(), 2):
        assert change((source, first), (source, second)) < SAME - 0.01, (one, two)


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
def test_a_copy_of_a_pair_has_its_change(photographs: dict[str, np.ndarray], name: str) -> None:
    source = photographs[name]
    for (what, edited), (how, copy) in itertools.product(edits(source).items(), COPIES.items()):
        found = change((source, edited), (copy(source), copy(edited)))
        assert found > SAME, (what, how, found)


def test_the_inverse_edit_is_no_copy(photographs: dict[str, np.ndarray]) -> None:
    source = photographs["coffee"]
    edited = written(source, "SALE")
    assert change((source, edited), (edited, source)) < -0.9


@given(hnp.arrays(np.float32, st.tuples(st.just(2), st.just(12)), elements=st.floats(-100, 100, width=32)))
def test_concordance_is_symmetric_bounded_and_knows_strength(values: np.ndarray) -> None:
    first, second = values[:1], values[1:]
    found = likeness.concordance(first, second)[0]
    assert found == pytest.approx(likeness.concordance(second, first)[0])
    assert -1 - 1e-6 <= found <= 1 + 1e-6
    if np.abs(first).max() > 1e-3:
        assert likeness.concordance(first, first)[0] == pytest.approx(1)
        assert likeness.concordance(first, 2 * first)[0] == pytest.approx(0.8)
        assert likeness.concordance(first, -first)[0] == pytest.approx(-1)
    assert likeness.concordance(0 * first, second)[0] == 0


def test_boxes_that_differ_a_little_are_compared_where_both_are(photographs: dict[str, np.ndarray]) -> None:
    source = photographs["astronaut"]
    first, second = (source, written(source, "SALE", 60)), (source, written(source, "SALE", 60))
    packed = np.concatenate([likeness.unpack([likeness.pair_signature(*pair)]) for pair in (first, second)])
    assert likeness.same_change(packed[:1], packed[1:])[0] == pytest.approx(1)
    # The same change measured in a box that is a cell larger on two sides.
    planes = [cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb).astype(np.float32) for picture in first]
    top, bottom, left, right = (int(edge) for edge in packed[0, signatures.BYTES : signatures.BYTES + 4])
    rows = likeness._basis(source.shape[0], top - 1, bottom)
    columns = likeness._basis(source.shape[1], left, right + 1)
    waves = np.stack([rows @ (planes[1] - planes[0])[..., plane] @ columns.T for plane in range(3)])
    peak = np.abs(waves).max()
    codes = np.rint(127 * np.sign(waves) * np.sqrt(np.abs(waves) / peak)).astype(np.int8).ravel()
    other = packed[1:].copy()
    other[0, signatures.BYTES : signatures.BYTES + 4] = (top - 1, bottom, left, right + 1)
    other[0, signatures.BYTES + 4 : signatures.BYTES + 8] = np.frombuffer(np.float32(peak).tobytes(), np.uint8)
    other[0, signatures.BYTES + 8 :] = codes.view(np.uint8)
    assert likeness.same_change(packed[:1], other)[0] > 0.97
    other[0, signatures.BYTES : signatures.BYTES + 4] = (0, 64, 0, 64)
    assert likeness.same_change(packed[:1], other)[0] == 0, "a box that is another one"


def test_a_pair_without_a_change_is_like_no_other(photographs: dict[str, np.ndarray]) -> None:
    source = photographs["coffee"]
    assert change((source, source), (source, source)) == 0
    assert change((source, source), (source, written(source, "SALE"))) == 0


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_damaged_signatures_are_refused_with_their_number(photographs: dict[str, np.ndarray], damage: Any) -> None:
    good = likeness.pair_signature(photographs["coffee"], photographs["coffee"])
    with pytest.raises(ValueError, match="pair signature 1 is damaged"):
        likeness.unpack([good, damage])


def test_numbers_that_were_damaged_link_nothing(photographs: dict[str, np.ndarray]) -> None:
    source = photographs["coffee"]
    good = likeness.unpack([likeness.pair_signature(source, written(source, "SALE"))])
    for place, value in ((0, 255), (1, 0), (4, np.frombuffer(np.float32(np.nan).tobytes(), np.uint8))):
        bad = good.copy()
        bad[0, signatures.BYTES + place : signatures.BYTES + place + np.size(value)] = value
        assert likeness.same_change(good, bad)[0] == likeness.same_change(bad, good)[0] == 0


# -- runs --------------------------------------------------------------------------------------------------------------

STAGES = ["refinement.likeness", "refinement.same_pairs"]


def written_set(folder: Path, pairs: Mapping[str, Pair], form: str = "png") -> Path:
    """A pair set with these instructions."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (instruction, pair) in enumerate(pairs.items()):
        names = [f"{number}_{side}.{form}" for side in ("source", "edited")]
        for name, picture in zip(names, pair, strict=True):
            (folder / name).write_bytes(images.encode(picture))
        lines.append({"source": names[0], "edited": names[1], "instruction": instruction})
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / "pairs.jsonl"


@pytest.fixture(scope="module")
def originals(photographs: dict[str, np.ndarray]) -> dict[str, Pair]:
    names = ("sale", "open", "red", "orange", "warm")
    return {f"{p}: {e}": (rgb, edits(rgb)[e]) for p, rgb in photographs.items() for e in names}


def test_the_same_pair_is_kept_once_and_different_edits_all(
    originals: dict[str, Pair], photographs: dict[str, np.ndarray], tmp_path: Path
) -> None:
    again = {f"{name}, again": (scaled(a, 0.7), jpeg(scaled(b, 0.7), 85)) for name, (a, b) in originals.items()}
    identity = {"nothing": (photographs["coffee"], jpeg(photographs["coffee"], 75))}
    given = written_set(tmp_path / "set", {**originals, **again, **identity})
    view = go(pipeline([str(given)], tmp_path / "run", STAGES))
    rows = table(view, "edit", ["instruction", "same_pairs", "pair_likeness", "pair_side"])
    names = {key: row["instruction"] for key, row in rows.items()}
    status = {row["instruction"]: (row["status"], row["reason"]) for row in rows.values()}
    assert status["nothing"][0] == "rejected"
    assert status["nothing"][1].startswith("pair_likeness")
    for key, row in rows.items():
        for link in row["same_pairs"] or ():
            assert names[link["id"]].removesuffix(", again") == names[key].removesuffix(", again")
    for name in originals:
        assert status[name][0] == "kept", "the larger one is the better one"
        assert status[f"{name}, again"][0] == "rejected"
        kept = next(key for key, other in names.items() if other == name)
        assert status[f"{name}, again"][1] == f"same_pairs: near-duplicate of {kept}"
    assert counts(view)["refinement.same_pairs"].rejected.total() == len(again)


def test_a_looser_limit_links_more_and_measures_nothing_again(
    photographs: dict[str, np.ndarray], tmp_path: Path
) -> None:
    rgb = photographs["coffee"]
    few = {
        "red": (rgb, tinted(rgb, (200, 30, 30))),
        "rust": (rgb, tinted(rgb, (200, 60, 30))),
        "sale": (rgb, edits(rgb)["sale"]),
    }
    given = written_set(tmp_path / "set", few)
    strict = pipeline([str(given)], tmp_path / "run", STAGES)
    before = counts(go(strict))["refinement.same_pairs"]
    loose = {"same_pairs": {"distinct": {"where": {"change": {"min": 0.85}}}}}
    after = go(pipeline([str(given)], tmp_path / "run", [STAGES[0], {STAGES[1]: {"keep": loose, "min_change": 0.9}}]))
    assert before.kept == 3
    rows = table(after, "edit", ["same_pairs", "instruction"])
    assert (
        strict.stage("refinement.same_pairs").fingerprint == after.pipeline.stage("refinement.same_pairs").fingerprint
    )
    # Two tints of one place, a little apart.
    (link,) = next(row["same_pairs"] for row in rows.values() if row["instruction"] == "red")
    assert 0.9 <= link["change"] < 0.98
    assert link["source"] == 1
    assert counts(after)["refinement.same_pairs"].kept == 2


def test_new_pairs_are_compared_with_old_ones(originals: dict[str, Pair], tmp_path: Path) -> None:
    first = dict(itertools.islice(originals.items(), 6))
    given = [str(written_set(tmp_path / "one", first))]
    go(pipeline(given, tmp_path / "run", STAGES))
    name, (source, edited) = next(iter(first.items()))
    copy = {f"{name}, again": (jpeg(source, 85), jpeg(edited, 85))}
    given.append(str(written_set(tmp_path / "two", copy)))
    view = go(pipeline(given, tmp_path / "run", STAGES))
    rows = {row["instruction"]: row for row in table(view, "edit", ["same_pairs", "instruction"]).values()}
    assert rows[name]["same_pairs"] == [], "what was measured is not written again"
    assert len(rows[f"{name}, again"]["same_pairs"]) == 1
    assert sorted(row["status"] for row in rows.values()) == ["kept"] * 6 + ["rejected"]


def test_embeddings_of_the_photographs_are_no_part_of_it(originals: dict[str, Pair], tmp_path: Path) -> None:
    given = written_set(tmp_path / "set", dict(itertools.islice(originals.items(), 2)))
    embed = {"curation.embed": {"encoder": {"engine": "test_predict:MeanColour"}}}
    view = go(pipeline([str(given)], tmp_path / "run", [embed, *STAGES]))
    assert counts(view)["refinement.same_pairs"].kept == 2
