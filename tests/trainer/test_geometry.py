"""Buckets and fits: what is cropped, and images, masks and boxes that agree to the pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugaf.imaging import boxes as box_tools
from ugaf.imaging.boxes import Box
from ugaf.trainer.data.geometry import Bucket, Fit, UnsuitableError, buckets_for, choose, choose_many, cropped

SIDES = st.integers(4, 90)


@st.composite
def fits(draw: st.DrawFn) -> tuple[Fit, list[Box]]:
    """An image's size, a bucket, and up to three boxes in the image."""
    width, height = draw(SIDES), draw(SIDES)
    boxes = []
    for _ in range(draw(st.integers(1, 3))):
        x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        boxes.append((x1, y1, draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height))))
    bucket = Bucket(draw(st.sampled_from([16, 32, 48, 64])), draw(st.sampled_from([16, 32, 48, 64])))
    return Fit.of(width, height, bucket, boxes), boxes


def shown_by(fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """Which source columns (rows) each output column (row) shows, by real intervals: bool (output, source)."""
    left, top, right, bottom = fit.window
    tables = []
    for start, stop, size, length in (
        (left, right, fit.bucket.width, fit.width),
        (top, bottom, fit.bucket.height, fit.height),
    ):
        unit = (stop - start) / size
        out, source = np.arange(size)[:, None], np.arange(length)[None]
        low, high = start + out * unit, start + (out + 1) * unit
        tables.append((np.minimum(high, source + 1) - np.maximum(low, source)) > 1e-9)
    return tables[0], tables[1]


@given(fits())
def test_a_mask_shows_exactly_the_pixels_that_overlap_it(case: tuple[Fit, list[Box]]) -> None:
    fit, boxes = case
    mask = np.random.default_rng(0).random((fit.height, fit.width)) < 0.05
    mask |= box_tools.to_mask(boxes[:1], fit.height, fit.width)
    across, down = shown_by(fit)
    expected = (down.astype(int) @ mask.astype(int) @ across.T.astype(int)) > 0
    assert np.array_equal(fit.mask(mask), expected)


@given(fits())
def test_boxes_and_masks_agree_to_the_pixel(case: tuple[Fit, list[Box]]) -> None:
    fit, boxes = case
    for box in boxes:
        painted = fit.mask(box_tools.to_mask([box], fit.height, fit.width))
        if painted.any():
            assert fit.boxes([box]) == [box_tools.of_mask(painted)]
            assert painted.sum() == box_tools.area(fit.boxes([box])[0])
        else:
            with pytest.raises(UnsuitableError, match="cropped away"):
                fit.boxes([box])


@given(fits())
def test_images_and_masks_agree_to_the_pixel(case: tuple[Fit, list[Box]]) -> None:
    """A painted box changes the image only inside the fitted mask; reduced, it is filled wherever all is painted."""
    fit, boxes = case
    plain = np.full((fit.height, fit.width, 3), 40, np.uint8)
    painted = plain.copy()
    mask = box_tools.to_mask(boxes, fit.height, fit.width)
    painted[mask] = 240
    changed = (fit.image(painted) != fit.image(plain)).any(axis=2)
    inside, outside = fit.mask(mask), fit.mask(~mask)
    left, top, right, bottom = fit.window
    enlarged = fit.bucket.width > right - left or fit.bucket.height > bottom - top
    if not enlarged:
        assert not changed[~inside].any()
        assert (fit.image(painted)[inside & ~outside] == 240).all()
        return
    # Cubic interpolation looks two pixels of the source further.
    grown = np.zeros_like(mask)
    for y, x in np.argwhere(mask):
        grown[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] = True
    assert not changed[~fit.mask(grown)].any()


@pytest.mark.parametrize("factor", [2, 4])
def test_the_fitted_box_shows_the_same_pixels_as_the_fitted_image(factor: int) -> None:
    """At a whole factor the crop of the fitted box is the box's pixels, averaged by blocks."""
    rgb = np.random.default_rng(1).integers(0, 256, (60 * factor, 100 * factor, 3)).astype(np.uint8)
    box = (75 * factor, 10 * factor, 85 * factor, 30 * factor)
    fit = Fit.of(100 * factor, 60 * factor, Bucket(60, 60), [box])
    assert fit.window == (25 * factor, 0, 85 * factor, 60 * factor)
    assert fit.boxes([box]) == [(50, 10, 60, 30)]
    blocks = box_tools.crop(rgb, box).reshape(20, factor, 10, factor, 3).mean(axis=(1, 3))
    assert np.abs(fit.image(rgb)[10:30, 50:60] - blocks).max() <= 0.51


@given(fits())
def test_the_window_keeps_the_boxes_where_they_fit_and_crops_no_more_than_needed(case: tuple[Fit, list[Box]]) -> None:
    fit, boxes = case
    left, top, right, bottom = fit.window
    assert 0 <= left < right <= fit.width
    assert 0 <= top < bottom <= fit.height
    assert right - left == fit.width or bottom - top == fit.height
    around = box_tools.union(boxes)
    for low, high, start, stop in ((around[0], around[2], left, right), (around[1], around[3], top, bottom)):
        if high - low <= stop - start:
            assert start <= low < high <= stop


def test_a_window_without_boxes_is_in_the_middle() -> None:
    assert Fit.of(300, 100, Bucket(64, 64)).window == (100, 0, 200, 100)
    assert Fit.of(300, 100, Bucket(64, 64), [(250, 0, 290, 10)]).window == (190, 0, 290, 100)
    assert Fit.of(300, 100, Bucket(64, 64), [(10, 0, 290, 10)]).window == (100, 0, 200, 100)


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (-1, 0, 5, 5), (0, 0, 41, 5), (9, 9, 5, 12)])
def test_a_box_outside_its_image_is_named(box: Box) -> None:
    with pytest.raises(UnsuitableError, match="outside its image"):
        Fit(40, 40, Bucket(16, 16), (0, 0, 40, 40)).boxes([box])


def test_an_image_of_another_size_is_refused() -> None:
    with pytest.raises(UnsuitableError, match="30 x 20 pixels, where 40 x 40 is due"):
        Fit.of(40, 40, Bucket(16, 16)).image(np.zeros((20, 30, 3), np.uint8))


@given(st.sampled_from([64**2, 256**2, 512**2, 1024**2, 1328**2]), st.sampled_from([16, 32, 64]))
def test_buckets_are_near_the_area_on_the_grid_and_both_ways_up(area: int, multiple: int) -> None:
    found = buckets_for(area, multiple, (0.25, 4.0))
    assert len(set(found)) == len(found)
    assert {(b.height, b.width) for b in found} == {(b.width, b.height) for b in found}
    assert [b.ratio for b in found] == sorted(b.ratio for b in found)
    for bucket in found:
        assert bucket.width % multiple == bucket.height % multiple == 0
        assert 0.25 <= bucket.ratio <= 4
        short = min(bucket.width, bucket.height)
        # Half a step of the long side, or (of the square) of both.
        assert abs(bucket.width * bucket.height - area) <= short * multiple / 2 + multiple**2 / 2 + short * multiple / 2


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_the_chosen_bucket_crops_least_of_all(width: int, height: int) -> None:
    buckets = buckets_for()
    keeps = [min(width / height / b.ratio, b.ratio * height / width) for b in buckets]
    best = choose(width, height, buckets)
    assert keeps[buckets.index(best)] == pytest.approx(max(keeps))
    assert cropped(np.array([width]), np.array([height]), buckets)[0] == pytest.approx(1 - max(keeps))


def photographs(count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Sizes as sets of photographs have them: camera and screen ratios, both ways up, and a tenth cropped at will."""
    rng = np.random.default_rng(7)
    ratios = rng.choice([1.0, 4 / 3, 3 / 2, 16 / 9, 5 / 4, 2.39], count, p=[0.12, 0.28, 0.36, 0.16, 0.05, 0.03])
    free = rng.random(count) < 0.1
    ratios[free] = np.exp(rng.uniform(0, np.log(3), free.sum()))
    ratios = np.where(rng.random(count) < 0.35, 1 / ratios, ratios)
    area = rng.uniform(0.5e6, 12e6, count)
    return np.sqrt(area * ratios).round().astype(int), np.sqrt(area / ratios).round().astype(int)


def test_buckets_waste_at_most_a_twentieth_where_squares_waste_a_quarter() -> None:
    widths, heights = photographs()
    waste = cropped(widths, heights, buckets_for()).mean()
    square = cropped(widths, heights, [Bucket(1024, 1024)]).mean()
    assert waste <= 0.05
    assert square > 0.25
    assert waste < square / 10


def test_most_tokens_of_a_microbatch_are_used_and_never_exceeded() -> None:
    """What a budget leaves unused is no padding: nothing is computed there."""
    for bucket in buckets_for():
        for conditions in (1, 2, 3):
            full = Bucket(bucket.width, bucket.height, conditions)
            size = full.batch_size(65_536)
            assert size * full.tokens() <= 65_536 < (size + 1) * full.tokens()
    assert Bucket(1024, 1024, 1).tokens() == 2 * 64 * 64
    assert Bucket(1024, 1024, 1).batch_size(100) == 1


def test_many_are_chosen_as_one_is() -> None:
    widths, heights = photographs(200)
    buckets = buckets_for()
    many = [buckets[place] for place in choose_many(widths, heights, buckets)]
    assert many == [choose(int(w), int(h), buckets) for w, h in zip(widths, heights, strict=True)]
