"""Each measure by value against an independent formula, and by its properties."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from scipy.stats import entropy
from skimage.color import rgb2hsv

from ugaf import photometry

RANGES = {
    "rgb_entropy": (0, 8),
    "saturation": (0, 1),
    "clarity": (0, 1020**2),
    "sharpness": (0, 8),
    "brightness": (0, 255),
    "texture": (0, 127.5),
}

pictures = hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3)))


def bt601(rgb: np.ndarray) -> np.ndarray:
    """Luma as integers, by the definition rather than by OpenCV's fixed-point arithmetic."""
    return np.rint(rgb.astype(np.float64) @ np.array([0.299, 0.587, 0.114]))


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket", "motorcycle"])
class TestOnPhotographs:
    def test_rgb_entropy_is_scipys_entropy_of_each_histogram(self, photos: dict[str, np.ndarray], name: str) -> None:
        rgb = photos[name]
        expected = np.mean([entropy(np.bincount(rgb[..., c].ravel()), base=2) for c in range(3)])
        assert photometry.rgb_entropy(rgb) == pytest.approx(expected, abs=1e-6)

    def test_saturation_is_skimages(self, photos: dict[str, np.ndarray], name: str) -> None:
        assert photometry.saturation(photos[name]) == pytest.approx(rgb2hsv(photos[name])[..., 1].mean(), abs=0.002)

    def test_brightness_is_the_mean_of_bt601_luma(self, photos: dict[str, np.ndarray], name: str) -> None:
        expected = (photos[name] @ np.array([0.299, 0.587, 0.114])).mean()
        assert photometry.brightness(photos[name]) == pytest.approx(expected, abs=0.05)

    def test_clarity_is_the_variance_of_scipys_laplacian(self, photos: dict[str, np.ndarray], name: str) -> None:
        expected = ndimage.laplace(bt601(photos[name]), mode="nearest").var()
        assert photometry.clarity(photos[name]) == pytest.approx(expected, rel=0.005)

    def test_sharpness_is_the_gradients_mean_eigenvalue(self, photos: dict[str, np.ndarray], name: str) -> None:
        """The spectral definition: the cosine transform diagonalises the Laplacian with repeated edges."""
        from scipy.fft import dctn

        grey = bt601(photos[name])
        power = dctn(grey, norm="ortho") ** 2
        u, v = (2 - 2 * np.cos(np.pi * np.arange(n) / n) for n in grey.shape)
        w = u[:, None] + v[None, :]
        assert photometry.sharpness(photos[name]) == pytest.approx((w**2 * power).sum() / (w * power).sum(), rel=0.005)

    def test_texture_is_the_mean_deviation_of_blocks(self, photos: dict[str, np.ndarray], name: str) -> None:
        rgb = photos[name][:296, :440]
        blocks = bt601(rgb).reshape(37, 8, 55, 8)
        assert photometry.texture(rgb) == pytest.approx(blocks.std(axis=(1, 3)).mean(), rel=0.005)

    def test_blur_lowers_sharpness_of_every_photograph_below_every_sharp_one(
        self, photos: dict[str, np.ndarray], name: str
    ) -> None:
        blurred = ndimage.gaussian_filter(photos[name], (3, 3, 0))
        lowest_sharp = min(photometry.sharpness(photo) for photo in photos.values())
        assert photometry.sharpness(blurred) < lowest_sharp / 2
        assert photometry.clarity(blurred) < photometry.clarity(photos[name]) / 5

    def test_measure_gives_what_the_single_functions_give(self, photos: dict[str, np.ndarray], name: str) -> None:
        measured = photometry.measure(photos[name])
        assert measured == {key: getattr(photometry, key)(photos[name]) for key in RANGES}


def test_known_values() -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    assert photometry.rgb_entropy(ramp) == pytest.approx(8)
    assert photometry.brightness(ramp) == pytest.approx(127.5)
    red = np.full((4, 4, 3), (255, 0, 0), np.uint8)
    assert photometry.saturation(red) == 1
    assert photometry.brightness(red) == pytest.approx(76)
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    assert photometry.texture(checks) == pytest.approx(127.5)
    assert photometry.sharpness(checks) == pytest.approx(8, abs=0.1)


def test_white_noise_has_sharpness_5() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 1), dtype=np.uint8).repeat(3, axis=2)
    assert photometry.sharpness(noise) == pytest.approx(5, abs=0.05)


def test_sharpness_ignores_contrast_and_clarity_does_not(photos: dict[str, np.ndarray]) -> None:
    flat = (photos["astronaut"] * 0.5 + 60).astype(np.uint8)
    assert photometry.sharpness(flat) == pytest.approx(photometry.sharpness(photos["astronaut"]), rel=0.03)
    assert photometry.clarity(flat) == pytest.approx(photometry.clarity(photos["astronaut"]) / 4, rel=0.05)


@given(pictures)
@settings(max_examples=60, deadline=None)
def test_measures_stay_in_range(rgb: np.ndarray) -> None:
    for name, value in photometry.measure(rgb).items():
        low, high = RANGES[name]
        assert type(value) is float
        assert low <= value <= high + 1e-9, name


@given(hnp.arrays(np.uint8, st.tuples(st.sampled_from([8, 16, 24]), st.sampled_from([8, 32]), st.just(3))))
@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("turn", [np.flipud, np.fliplr, lambda a: a.swapaxes(0, 1)], ids=["up-down", "mirror", "turn"])
def test_measures_do_not_see_flips(turn: Callable[[np.ndarray], np.ndarray], rgb: np.ndarray) -> None:
    turned = photometry.measure(np.ascontiguousarray(turn(rgb)))
    assert turned == pytest.approx(photometry.measure(rgb), rel=1e-9, abs=1e-9)


@given(st.tuples(*[st.integers(0, 255)] * 3), st.integers(1, 20), st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_a_constant_image_has_its_colour_and_nothing_else(colour: tuple[int, int, int], h: int, w: int) -> None:
    measured = photometry.measure(np.full((h, w, 3), colour, np.uint8))
    _, saturation, _ = colorsys.rgb_to_hsv(*(value / 255 for value in colour))
    assert measured.pop("saturation") == pytest.approx(saturation, abs=0.5 / 255 + 1e-6)
    assert measured.pop("brightness") == pytest.approx(np.dot(colour, (0.299, 0.587, 0.114)), abs=0.51)
    assert measured.pop("rgb_entropy") == pytest.approx(0, abs=1e-12)
    assert measured == {"clarity": 0, "sharpness": 0, "texture": 0}


@given(pictures)
@settings(max_examples=30, deadline=None)
def test_greyscale_images_have_no_saturation(rgb: np.ndarray) -> None:
    assert photometry.saturation(rgb[..., :1].repeat(3, axis=2)) == 0


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 30), st.integers(1, 30), st.just(3))))
@settings(max_examples=40, deadline=None)
def test_texture_is_over_whole_blocks_or_what_there_is_of_one(rgb: np.ndarray) -> None:
    grey = photometry.luma(rgb).astype(np.float64)
    height, width = min(8, grey.shape[0]), min(8, grey.shape[1])
    blocks = [
        grey[y : y + height, x : x + width].std()
        for y in range(0, grey.shape[0] - height + 1, height)
        for x in range(0, grey.shape[1] - width + 1, width)
    ]
    assert photometry.texture(rgb) == pytest.approx(np.mean(blocks), abs=1e-9)


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_not_rgb_uint8_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected RGB uint8"):
        photometry.measure(bad)
