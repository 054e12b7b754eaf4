"""Functions from a JPEG's bytes to four numbers: RGB entropy, saturation, clarity, brightness.

All of them measure a copy of 256 pixels, so that they give about the same numbers, and raise for a file that their
decoder refuses.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import cv2
import numpy as np
from PIL import Image

from ugaf.imaging import images
from ugaf.measures import photometry

SIDE = 256

Numbers = tuple[float, float, float, float]


def ours(data: bytes) -> Numbers:
    """ugaf's own decode and formulas: the one kernel that every engine runs to show its own cost."""
    return _measures(images.decode(data, SIDE))


def opencv(data: bytes) -> Numbers:
    """The loop that one writes with OpenCV: decode in full, reduce, and the same formulas."""
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        raise ValueError("cannot be decoded")
    small = cv2.resize(bgr, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return _measures(cv2.cvtColor(small, cv2.COLOR_BGR2RGB))


def decode_only(data: bytes) -> Numbers:
    """OpenCV's full decode and nothing else."""
    if cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is None:
        raise ValueError("cannot be decoded")
    return 0.0, 0.0, 0.0, 0.0


def pillow(data: bytes) -> Numbers:
    """What a user of any engine writes with Pillow and numpy: open, convert to RGB, reduce, formulas on arrays."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return _with_numpy(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def pillow_draft(data: bytes) -> Numbers:
    """The same by one who knows that `thumbnail` lets libjpeg decode at a fraction of the size."""
    image = Image.open(io.BytesIO(data))
    image.thumbnail((SIDE, SIDE))
    return _with_numpy(image.convert("RGB"))


def _with_numpy(image: Image.Image) -> Numbers:
    rgb = np.asarray(image)
    entropy = 0.0
    for channel in range(3):
        share = np.bincount(rgb[..., channel].ravel(), minlength=256) / rgb[..., channel].size
        share = share[share > 0]
        entropy -= float((share * np.log2(share)).sum()) / 3
    saturation = float(np.asarray(image.convert("HSV"))[..., 1].mean()) / 255
    grey = np.asarray(image.convert("L"))
    edged = np.pad(grey.astype(np.float32), 1, mode="edge")
    laplacian = edged[:-2, 1:-1] + edged[2:, 1:-1] + edged[1:-1, :-2] + edged[1:-1, 2:] - 4 * edged[1:-1, 1:-1]
    return entropy, saturation, float(laplacian.var()), float(grey.mean())


def _measures(rgb: np.ndarray) -> Numbers:
    return photometry.rgb_entropy(rgb), photometry.saturation(rgb), photometry.clarity(rgb), photometry.brightness(rgb)


KERNELS: Mapping[str, Callable[[bytes], Numbers]] = {
    kernel.__name__: kernel for kernel in (ours, opencv, decode_only, pillow, pillow_draft)
}
