"""PSNR and SSIM outside the boxes: against scikit-image, and by hand."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from bench_tools import painted, scene
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ugaf.bench.metrics import psnr_outside, ssim_outside


def test_without_boxes_psnr_and_ssim_are_scikit_images(photos: dict[str, np.ndarray]) -> None:
    source = photos["chelsea"]
    edited = np.clip(source + np.random.default_rng(0).normal(0, 9, source.shape), 0, 255).astype(np.uint8)
    assert psnr_outside(source, edited, []) == pytest.approx(peak_signal_noise_ratio(source, edited), abs=1e-3)
    assert ssim_outside(source, edited, []) == pytest.approx(_skimage_ssim(source, edited)[5:-5, 5:-5].mean(), abs=1e-4)


def test_ssim_outside_is_scikit_images_map_where_no_window_touches_a_box(photos: dict[str, np.ndarray]) -> None:
    source = photos["coffee"]
    edited = painted(np.clip(source.astype(int) * 0.8, 0, 255).astype(np.uint8), (100, 60, 300, 200))
    free = np.ones(source.shape[:2], bool)
    free[55:205, 95:305] = False
    free[:5], free[-5:], free[:, :5], free[:, -5:] = False, False, False, False
    expected = _skimage_ssim(source, edited)[free].mean()
    assert ssim_outside(source, edited, [(100, 60, 300, 200)]) == pytest.approx(expected, abs=1e-4)


def test_psnr_outside_by_hand_and_nothing_of_the_edit_enters() -> None:
    source = np.full((40, 50, 3), 100, np.uint8)
    edited = painted(source + np.uint8(5), (10, 10, 30, 30))
    # Every channel of every pixel outside differs by 5: 10 log10(255^2 / 25).
    assert psnr_outside(source, edited, [(10, 10, 30, 30)]) == pytest.approx(34.1514, abs=1e-3)
    edited[0, 0] = 100
    # 1600 pixels outside, one of them equal.
    expected = 10 * np.log10(255**2 / (25 * 1599 / 1600))
    assert psnr_outside(source, edited, [(10, 10, 30, 30)]) == pytest.approx(expected, abs=1e-3)
    other = painted(edited, (10, 10, 30, 30), (0, 0, 255))
    for measure in (psnr_outside, ssim_outside):
        assert measure(source, other, [(10, 10, 30, 30)]) == measure(source, edited, [(10, 10, 30, 30)])


def test_a_box_over_everything_leaves_nothing_to_measure() -> None:
    source = scene(1)
    assert psnr_outside(source, source, [(0, 0, 128, 96)]) is None
    assert ssim_outside(source, source, [(0, 0, 120, 96)]) is None


def _skimage_ssim(source: np.ndarray, edited: np.ndarray) -> np.ndarray:
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float64) for picture in (source, edited)]
    options: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return structural_similarity(*grey, data_range=255, full=True, **options)[1]
