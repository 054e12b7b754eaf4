"""Registration: known displacements, scales, crops and edits are recovered from real photographs."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_editor import Redraw, local_edit, redraw

from ugaf.imaging import registration
from ugaf.imaging.registration import find_frame, fit_motion, on_one_grid, register


def test_same_images_come_back_unresampled(photos: dict[str, np.ndarray]) -> None:
    photo = photos["coffee"]
    result = register(photo, photo.copy())
    assert np.array_equal(result.edited, photo)
    assert (result.shift_x, result.shift_y, result.scale_x, result.scale_y) == (0, 0, 1, 1)
    assert result.valid.all()


@pytest.mark.parametrize("shift", [(0.5, -0.25), (4.0, -3.0), (-2.3, 3.7), (11.0, 6.0)])
def test_a_shift_is_recovered_to_a_tenth_of_a_pixel(photos: dict[str, np.ndarray], shift: tuple[float, float]) -> None:
    photo = photos["astronaut"]
    moved = redraw(photo, Redraw(shift=shift, texture=0.0, wobble=0.0, megapixels=None), np.random.default_rng(0))
    result = register(photo, moved)
    assert (result.shift_x, result.shift_y) == pytest.approx(shift, abs=0.1)
    inner = (slice(20, -20), slice(20, -20))
    before = np.abs(photo[inner].astype(int) - moved[inner]).mean()
    after = np.abs(photo[inner].astype(int) - result.edited[inner]).mean()
    assert after < 0.4 * before


def test_an_edit_and_new_texture_do_not_disturb_the_shift(photos: dict[str, np.ndarray]) -> None:
    rng = np.random.default_rng(1)
    edited, _, _ = local_edit(photos["astronaut"], photos["coffee"], "paste", rng, (0.25, 0.3))
    moved = redraw(edited, Redraw(shift=(3.0, -2.0), texture=0.9), rng)
    result = register(photos["astronaut"], moved)
    assert (result.shift_x, result.shift_y) == pytest.approx((3.0, -2.0), abs=0.3)


def test_scale_is_recovered(photos: dict[str, np.ndarray]) -> None:
    photo = photos["motorcycle"]
    moved = redraw(photo, Redraw(scale=1.012, texture=0.2), np.random.default_rng(2))
    result = register(photo, moved)
    assert (result.scale_x, result.scale_y) == pytest.approx((1.012, 1.012), abs=0.003)


@pytest.mark.parametrize(("crop", "expected"), [((0.1, 0.0), "crop"), ((0.0, 0.0), "stretch")])
def test_crop_and_stretch_are_told_apart(
    photos: dict[str, np.ndarray], crop: tuple[float, float], expected: str
) -> None:
    photo = photos["coffee"]
    height, width = photo.shape[:2]
    if expected == "crop":
        edited = redraw(photo, Redraw(crop=crop, texture=0.5), np.random.default_rng(3))
        wanted = (0.05 * width, 0.0, 0.95 * width, float(height))
    else:
        edited = cv2.resize(photo, (int(width * 0.9), height), interpolation=cv2.INTER_AREA)
        wanted = (0.0, 0.0, float(width), float(height))
    assert find_frame(photo, edited) == pytest.approx(wanted, abs=0.01 * width)
    result = register(photo, edited)
    assert result.edited.shape == photo.shape
    assert result.valid.mean() == pytest.approx(0.9 if expected == "crop" else 1.0, abs=0.02)


def test_flat_and_tiny_images_register_to_themselves() -> None:
    flat = np.full((40, 60, 3), 128, np.uint8)
    assert register(flat, flat).edited.shape == flat.shape
    dot = np.zeros((1, 1, 3), np.uint8)
    assert register(dot, np.full((5, 3, 3), 9, np.uint8)).edited.shape == (1, 1, 3)


def test_on_one_grid_reduces_without_registering_what_did_not_move(
    photos: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = photos["rocket"]
    monkeypatch.setattr(registration, "register", lambda *_: pytest.fail("registered"))
    source, edited = on_one_grid(photo, photo, 320, (0.0, 0.0))
    assert source.shape == edited.shape
    assert max(source.shape) == 320


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.floats(-6, 6), st.floats(-6, 6)),
    st.floats(-0.01, 0.01),
    st.integers(0, 10_000),
)
def test_fit_ignores_a_third_of_wrong_tiles(shift: tuple[float, float], zoom: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    width, height = 1024, 768
    grid = np.stack(np.meshgrid(np.linspace(64, 960, 8), np.linspace(64, 704, 6)), axis=-1).reshape(-1, 2)
    exact = np.array(shift) + zoom * (grid - (width / 2, height / 2))
    noisy = exact + rng.normal(0, 0.05, exact.shape)
    wrong = rng.permutation(len(grid))[: len(grid) // 3]
    noisy[wrong] = rng.uniform(-30, 30, (len(wrong), 2))
    motion = fit_motion(grid, noisy, np.ones(len(grid)), width, height)
    assert motion[2:] == pytest.approx(shift, abs=0.3)
    assert motion[:2] == pytest.approx((1 + zoom, 1 + zoom), abs=0.002)
