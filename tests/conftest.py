"""Shared fixtures: real photographs that scikit-image carries."""

from __future__ import annotations

import os

# As in the engine's workers, and before numpy is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import settings

cv2.setNumThreads(1)
settings.register_profile("ugaf", deadline=None, derandomize=True)
settings.load_profile("ugaf")


@pytest.fixture(scope="session")
def photos() -> dict[str, np.ndarray]:
    """Real colour photographs, RGB uint8."""
    from skimage import data

    left, _, _ = data.stereo_motorcycle()
    return {
        "astronaut": data.astronaut(),
        "chelsea": data.chelsea(),
        "coffee": data.coffee(),
        "rocket": data.rocket(),
        "motorcycle": left,
    }


@pytest.fixture(scope="session")
def shared_images() -> Path:
    """A folder with photos/, pairs/ and index.json, where there is one (UGAF_TEST_IMAGES, else ../shared/images)."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("UGAF_TEST_IMAGES", root.parent / "shared" / "images"))
    if not (folder / "index.json").exists():
        pytest.skip(f"no test images at {folder}: set UGAF_TEST_IMAGES")
    return folder
