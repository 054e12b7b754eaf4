"""Signatures against scipy's transform, against really cropped, mirrored and shifted pictures, and against damage."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest
import scipy.fft
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data
from skimage.metrics import structural_similarity
from ugaf.stages.curation.signature import Signature

from ugaf.imaging import images
from ugaf.measures import signatures
from ugaf.stage import Failure, Row


def grey(name: str = "astronaut") -> np.ndarray:
    photo = np.asarray(getattr(data, name)())
    return cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY) if photo.ndim == 3 else photo


def noise(seed: int, height: int = 90, width: int = 120) -> np.ndarray:
    rough = np.random.default_rng(seed).normal(0, 1, (height, width))
    return cv2.normalize(cv2.GaussianBlur(rough, (0, 0), 5), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def coefficients(*pictures: np.ndarray) -> np.ndarray:
    return signatures.unpack([signatures.signature(picture) for picture in pictures])


def test_a_signature_holds_the_orthonormal_cosine_transform_of_the_squashed_luma() -> None:
    picture = grey()
    square = cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA).astype(float)
    expected = scipy.fft.dctn(square, norm="ortho")[:16, :16] / 64
    found = coefficients(picture).reshape(16, 16)
    peak = np.abs(expected.ravel()[1:]).max()
    assert found[0, 0] == pytest.approx(square.mean(), abs=0.05)
    # Square-root steps of 1/127: half a step is an error of sqrt(|c| peak) / 127, and peak / 4 / 127^2 near zero.
    allowed = np.sqrt(np.abs(expected) * peak) / 127 + peak / 127**2 + 0.3  # 0.3: the reduction rounds here
    assert (np.abs(found - expected) <= allowed)[1:].all()


def test_the_size_is_fixed_and_the_parts_are_where_the_format_says() -> None:
    packed = signatures.signature(noise(1))
    mean, peak = struct.unpack("<ff", packed[256:])
    assert len(packed) == signatures.BYTES == 264
    assert packed[0] == signatures.FORMAT
    assert mean == pytest.approx(noise(1).mean(), abs=0.5)
    assert peak == pytest.approx(np.abs(signatures.unpack([packed])[0, 1:]).max(), rel=1e-5)


@pytest.mark.parametrize("level", [0, 1, 77, 255])
def test_a_plain_picture_has_a_mean_and_nothing_else(level: int) -> None:
    found = coefficients(np.full((40, 70), level, np.uint8))
    assert found[0, 0] == pytest.approx(level, abs=1e-3)
    assert not found[0, 1:].any()
    assert signatures.contrast(found)[0] == 0
    assert not signatures.hashes(found, 96).any()
    assert signatures.cosine(found, found)[0] == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (5, 7), (64, 64), (2000, 30)])
def test_any_size_gives_a_signature(shape: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert np.isfinite(coefficients(picture)).all()


@pytest.mark.parametrize(
    "picture", [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.float32), np.zeros((0, 4), np.uint8)]
)
def test_what_is_no_luma_picture_is_refused(picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8 luma"):
        signatures.signature(picture)


@pytest.mark.parametrize(
    ("damaged", "what"),
    [
        (b"", "0 bytes"),
        (signatures.signature(noise(2))[:-1], "263 bytes"),
        (None, "null"),
        (b"\x09" + signatures.signature(noise(2))[1:], "264 bytes"),
        (signatures.signature(noise(2))[:256] + struct.pack("<ff", np.nan, 1), "264 bytes"),
    ],
)
def test_a_damaged_signature_is_named(damaged: bytes, what: str) -> None:
    assert not signatures.valid(damaged)
    with pytest.raises(ValueError, match=f"signature 1 is damaged: {what}"):
        signatures.unpack([signatures.signature(noise(3)), damaged])


def test_no_signatures_are_no_coefficients() -> None:
    assert signatures.unpack([]).shape == (0, 256)


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_mirroring_the_picture_mirrors_the_coefficients(seed: int) -> None:
    picture = noise(seed)
    straight, mirrored = coefficients(picture, np.ascontiguousarray(picture[:, ::-1]))
    flipped = signatures.flipped(straight[None])
    assert np.abs(flipped[0] - mirrored).max() < 0.5
    np.testing.assert_array_equal(signatures.flipped(flipped)[0], straight)


@pytest.mark.parametrize(("y", "x"), [((0, 0.9), (0.1, 1)), ((0.05, 0.95), (0, 1)), ((0.08, 1), (0.04, 0.96))])
def test_a_window_of_the_coefficients_is_the_cropped_picture(y: tuple[float, float], x: tuple[float, float]) -> None:
    picture = grey("camera")
    rows, columns = (slice(round(512 * span[0]), round(512 * span[1])) for span in (y, x))
    real = coefficients(np.ascontiguousarray(picture[rows, columns]))
    whole = coefficients(picture)
    weights = signatures.whitening(12)
    assert signatures.cosine(signatures.cropped(whole, y, x), real, weights)[0] > 0.98
    assert signatures.cosine(whole, real, weights)[0] < 0.9


@given(st.floats(0, 0.4), st.floats(0.6, 1))
@settings(max_examples=30, deadline=None)
def test_a_window_draws_what_the_whole_has_there(start: float, end: float) -> None:
    """By value, from the definition: the low-passed luma sampled in the window, and transformed by scipy."""
    line = np.random.default_rng(3).normal(0, 1, 16)
    t = (np.arange(1024) + 0.5) / 1024
    at = start + (end - start) * t
    drawn = line[0] + sum(line[k] * np.sqrt(2) * np.cos(np.pi * k * at) for k in range(1, 16))
    expected = scipy.fft.dct(drawn, norm="ortho")[:16] / np.sqrt(1024)
    np.testing.assert_allclose(signatures.window(start, end) @ line, expected, atol=0.01)


def test_the_whole_window_changes_nothing_and_an_empty_one_is_refused() -> None:
    np.testing.assert_allclose(signatures.window(0, 1), np.eye(16), atol=1e-6)
    for bad in ((0.5, 0.5), (0.6, 0.4), (-0.1, 1), (0, 1.1)):
        with pytest.raises(ValueError, match="window"):
            signatures.window(*bad)


def test_the_hash_is_the_signs_by_radial_frequency() -> None:
    found = coefficients(noise(5))
    radius = [np.hypot(*divmod(place, 16)) for place in signatures.order()]
    assert radius == sorted(radius)
    assert sorted(signatures.order()) == list(range(1, 256))
    bits = np.unpackbits(signatures.hashes(found, 75), axis=1)[0]
    assert bits.tolist() == [*(found[0, signatures.order()[:75]] > 0).astype(int), 0, 0, 0, 0, 0]


def test_brightness_and_contrast_do_not_change_the_cosine() -> None:
    picture = grey()
    duller = np.rint(picture * 0.6 + 40).astype(np.uint8)
    first, second = coefficients(picture, duller)
    assert signatures.cosine(first[None], second[None])[0] > 0.999
    assert signatures.cosine(first[None], coefficients(grey("camera")))[0] < 0.5


def test_contrast_is_the_standard_deviation_of_the_drawn_picture() -> None:
    found = coefficients(grey())
    drawn = signatures.reconstruct(found, 64)
    assert signatures.contrast(found)[0] == pytest.approx(drawn.std(), rel=1e-4)
    assert drawn.mean() == pytest.approx(found[0, 0], rel=1e-4)


def test_the_drawn_picture_is_the_low_passed_one() -> None:
    picture = grey()
    square = cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA).astype(float)
    spectrum = scipy.fft.dctn(square, norm="ortho")
    spectrum[16:], spectrum[:, 16:] = 0, 0
    assert (
        np.abs(signatures.reconstruct(coefficients(picture), 64)[0] - scipy.fft.idctn(spectrum, norm="ortho")).max() < 6
    )


def test_structural_similarity_and_psnr_are_those_of_scikit_image() -> None:
    first = signatures.reconstruct(coefficients(grey(), grey("camera"), noise(1)))
    second = signatures.reconstruct(coefficients(grey("camera"), noise(2), noise(1)))
    options = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = [structural_similarity(a, b, **options) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(signatures.ssim(first, second), expected, atol=1e-4)
    error = ((first[0].astype(float) - second[0]) ** 2).mean()
    assert signatures.psnr(first, second)[0] == pytest.approx(10 * np.log10(255**2 / error), abs=1e-3)
    assert signatures.psnr(first, second)[2] == np.inf
    with pytest.raises(ValueError, match="11 x 11"):
        signatures.ssim(first[:, :8, :8], second[:, :8, :8])


def test_a_change_is_the_difference_of_its_pictures() -> None:
    source, edited = noise(7), noise(8)
    changed = signatures.unpack([signatures.of_difference(source, edited)])
    before, after = coefficients(source, edited)
    assert np.abs(changed[0] - (after - before)).max() < 1
    nothing = signatures.unpack([signatures.of_difference(source, source)])
    assert not nothing.any()
    larger = cv2.resize(edited, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    assert np.abs(signatures.unpack([signatures.of_difference(source, larger)]) - changed).max() < 1


def test_the_same_pixels_give_the_same_bytes_and_words_know_none() -> None:
    assert signatures.signature(noise(4)) == signatures.signature(noise(4).copy())
    rng = np.random.default_rng(0)
    weights = signatures.whitening()
    for _ in range(5):
        values = rng.normal(0, 1, (3, 256)).astype(np.float32)
        assert np.linalg.norm(signatures.unit(values, weights), axis=1) == pytest.approx(1, abs=1e-5)


def test_the_stage_measures_a_photograph_and_fails_a_broken_one() -> None:
    stage = Signature("curation.signature")
    good, broken = Row("0" * 32, {"image": images.encode(data.coffee(), "jpeg", 95)}), Row("1" * 32, {"image": b"no"})
    measured, failed = stage([good, broken])
    assert isinstance(failed, Failure)
    found = signatures.unpack([measured["signature"]])  # type: ignore[call-overload,index]
    assert signatures.cosine(found, coefficients(grey("coffee")))[0] > 0.99
