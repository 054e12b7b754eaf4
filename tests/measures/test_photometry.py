"""Each measure by value against an independent formula, and by its properties."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage, signal
from scipy.stats import entropy
from skimage.color import rgb2hsv

from ugaf.imaging.planes import Planes
from ugaf.measures import artifacts, photometry

RANGES = {
    "rgb_entropy": (0, 8),
    "saturation": (0, 1),
    "clarity": (0, 1020**2),
    "sharpness": (0, 8),
    "brightness": (0, 255),
    "texture": (0, 127.5),
    "contrast": (0, 127.5),
    "colourfulness": (0, 300),
    "clipped_dark": (0, 1),
    "clipped_bright": (0, 1),
    "noise_level": (0, 427),
    "border": (0, 1),
    "grey_share": (0, 1),
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
        single = {key: getattr(photometry, key, None) or getattr(artifacts, key) for key in RANGES}
        measured = photometry.measure(photos[name])
        assert list(measured) == list(RANGES)
        assert measured == {key: function(photos[name]) for key, function in single.items()}

    def test_contrast_is_the_standard_deviation_of_luma(self, photos: dict[str, np.ndarray], name: str) -> None:
        assert photometry.contrast(photos[name]) == pytest.approx(bt601(photos[name]).std(), rel=0.002)

    def test_colourfulness_is_hasler_and_suesstrunks(self, photos: dict[str, np.ndarray], name: str) -> None:
        red, green, blue = np.moveaxis(photos[name].astype(np.float64), 2, 0)
        rg, yb = red - green, 0.5 * (red + green) - blue
        expected = np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean())
        assert photometry.colourfulness(photos[name]) == pytest.approx(expected, rel=1e-9)

    def test_colourfulness_is_in_proportion_to_the_colours(self, photos: dict[str, np.ndarray], name: str) -> None:
        grey = bt601(photos[name])[..., None]
        faded = np.rint(grey + 0.5 * (photos[name] - grey)).astype(np.uint8)
        assert photometry.colourfulness(faded) == pytest.approx(photometry.colourfulness(photos[name]) / 2, rel=0.02)

    def test_grey_share_by_jfifs_formulas(self, photos: dict[str, np.ndarray], name: str) -> None:
        rgb = photos[name][:300, :440].reshape(150, 2, 220, 2, 3).mean(axis=(1, 3))
        rgb = np.floor(rgb + 0.5)
        luma = np.rint(rgb @ [0.299, 0.587, 0.114])
        cb = np.rint(128 + (rgb[..., 2] - rgb @ [0.299, 0.587, 0.114]) / 1.772)
        cr = np.rint(128 + (rgb[..., 0] - rgb @ [0.299, 0.587, 0.114]) / 1.402)
        tinted = np.zeros(luma.shape, bool)
        for level in np.unique(luma):
            same = luma == level
            tinted[same] = (abs(cb[same] - np.rint(cb[same].mean())) <= 4) & (
                abs(cr[same] - np.rint(cr[same].mean())) <= 4
            )
        neutral = (abs(cb - 128) <= 4) & (abs(cr - 128) <= 4)
        expected = max(tinted.mean(), neutral.mean())
        assert photometry.grey_share(photos[name][:300, :440]) == pytest.approx(expected, abs=0.01)

    def test_grey_share_knows_black_and_white_in_any_tone(self, photos: dict[str, np.ndarray], name: str) -> None:
        grey = bt601(photos[name]).astype(np.uint8)
        levels = np.arange(256)
        sepia = np.clip(levels[:, None] * [1.351, 1.203, 0.937], 0, 255).astype(np.uint8)
        blue_toned = np.stack([np.interp(levels, [0, 128, 255], [0, mid, 255]) for mid in (60, 110, 170)], axis=1)
        for tone in (np.stack([levels] * 3, axis=1), sepia, blue_toned):
            assert photometry.grey_share(tone.astype(np.uint8)[grey]) > 0.97
        assert photometry.grey_share(photos[name]) < 0.6

    def test_noise_is_immerkaers_formula(self, photos: dict[str, np.ndarray], name: str) -> None:
        kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])
        response = signal.convolve2d(photometry.luma(photos[name]).astype(int), kernel, mode="valid")
        height, width = photos[name].shape[:2]
        expected = np.sqrt(np.pi / 2) * np.abs(response).sum() / (6 * (width - 2) * (height - 2))
        assert artifacts.noise_level(photos[name]) == pytest.approx(expected, rel=1e-9)

    def test_clipped_pixels_are_counted(self, photos: dict[str, np.ndarray], name: str) -> None:
        for exposure in (0.3, 1.0, 2.5):
            rgb = np.clip(photos[name] * exposure, 0, 255).astype(np.uint8)
            assert artifacts.clipped_dark(rgb) == pytest.approx((rgb <= 4).all(axis=2).mean(), abs=1e-12)
            assert artifacts.clipped_bright(rgb) == pytest.approx((rgb >= 251).all(axis=2).mean(), abs=1e-12)

    def test_clipping_grows_with_the_exposure_that_makes_it(self, photos: dict[str, np.ndarray], name: str) -> None:
        shifted = [np.clip(photos[name].astype(int) + shift, 0, 255).astype(np.uint8) for shift in range(-240, 241, 80)]
        dark, bright = ([f(rgb) for rgb in shifted] for f in (artifacts.clipped_dark, artifacts.clipped_bright))
        assert dark == sorted(dark, reverse=True)
        assert bright == sorted(bright)
        assert dark[0] > 0.5
        assert bright[-1] > 0.5


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
    assert photometry.contrast(checks) == pytest.approx(127.5)
    assert (artifacts.clipped_dark(checks), artifacts.clipped_bright(checks)) == (0.5, 0.5)
    assert artifacts.clipped_dark(red) == artifacts.clipped_bright(red) == 0
    assert photometry.colourfulness(red) == pytest.approx(0.3 * np.hypot(255, 127.5))
    red_and_cyan = np.array([[(255, 0, 0), (0, 255, 255)]], np.uint8)
    # rg is 255 and -255, yb 127.5 and -127.5: deviations 255 and 127.5 about 0.
    assert photometry.colourfulness(red_and_cyan) == pytest.approx(np.hypot(255, 127.5))


def test_a_coloured_thing_in_a_grey_picture_is_the_share_that_is_missing(photos: dict[str, np.ndarray]) -> None:
    rgb = bt601(photos["coffee"]).astype(np.uint8)[..., None].repeat(3, axis=2)
    rgb[100:200, 100:300] = photos["astronaut"][:100, :200] // 2 + np.array([120, 0, 0], np.uint8)
    assert photometry.grey_share(rgb) == pytest.approx(1 - 100 * 200 / (400 * 600), abs=0.02)


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
        if name == "noise_level" and min(rgb.shape[:2]) < 3:
            assert value is None
            continue
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
    red, green, blue = colour
    mean_colour = 0.3 * np.hypot(red - green, (red + green) / 2 - blue)
    assert measured.pop("colourfulness") == pytest.approx(mean_colour, abs=1e-4)
    assert measured.pop("clipped_dark") == (max(colour) <= 4)
    assert measured.pop("clipped_bright") == (min(colour) >= 251)
    assert measured.pop("noise_level") == (0 if min(h, w) >= 3 else None)
    assert measured == {"clarity": 0, "sharpness": 0, "texture": 0, "contrast": 0, "border": 1, "grey_share": 1}


@given(pictures)
@settings(max_examples=30, deadline=None)
def test_greyscale_images_have_no_colour(rgb: np.ndarray) -> None:
    measured = photometry.measure(rgb[..., :1].repeat(3, axis=2))
    assert (measured["saturation"], measured["colourfulness"], measured["grey_share"]) == (0, 0, 1)


@given(st.sets(st.sampled_from(sorted(RANGES))), pictures)
@settings(max_examples=40, deadline=None)
def test_a_choice_of_measures_gives_the_same_numbers(names: set[str], rgb: np.ndarray) -> None:
    everything = photometry.measure(rgb)
    assert photometry.measure(rgb, names) == {name: value for name, value in everything.items() if name in names}


def test_only_what_is_asked_for_is_computed(monkeypatch: pytest.MonkeyPatch, photos: dict[str, np.ndarray]) -> None:
    for plane in ("channels", "highest", "lowest", "laplacian_power"):
        monkeypatch.setattr(Planes, plane, property(lambda _, plane=plane: pytest.fail(f"made {plane}")))
    assert list(photometry.measure(photos["coffee"], ["contrast", "brightness"])) == ["brightness", "contrast"]


def test_an_unknown_measure_is_refused_with_the_nearest(photos: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="'britness'; did you mean 'brightness'"):
        photometry.measure(photos["coffee"], ["britness"])


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
