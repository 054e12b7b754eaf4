"""What a photograph looks like in six numbers: colourful or grey, sharp or soft, light or dark, plain or busy.

Each measure is a pure function of RGB uint8 pixels (height, width, 3) and is deterministic. All but brightness and
saturation depend on the size of the image: compare values only between images that were reduced to the same longer side
(`images.decode(data, side)`). `measure` computes all six over one shared grey image.

FineEdit (arXiv 2604.10954, section 4) and FireRed-Image-Edit name these descriptors and publish neither formulas nor
thresholds; the formulas here are stated with their own sources.
"""

from __future__ import annotations

import cv2
import numpy as np

BLOCK = 8
"""Side in pixels of the blocks that `texture` looks at."""


def measure(rgb: np.ndarray) -> dict[str, float]:
    """All measures of one image: rgb_entropy, saturation, clarity, sharpness, brightness and texture.

    Args:
        rgb: uint8 (height, width, 3), already at the working size.

    Raises:
        ValueError: not RGB uint8, or empty.
    """
    grey = luma(rgb)
    detail, gradient = _laplacian_power(grey), _gradient_power(grey)
    return {
        "rgb_entropy": rgb_entropy(rgb),
        "saturation": saturation(rgb),
        "clarity": detail,
        "sharpness": detail / gradient if gradient else 0.0,
        "brightness": cv2.mean(grey)[0],
        "texture": _block_deviation(grey),
    }


def rgb_entropy(rgb: np.ndarray) -> float:
    """Mean over the three channels of the Shannon entropy of the channel's 256-bin histogram; bits, 0..8.

    0 for a constant image, 8 where each channel uses all 256 values equally. Greyscale images can score high: this
    measures how many tones there are, not colour. (Shannon 1948.)
    """
    _check(rgb)
    pixels = rgb.shape[0] * rgb.shape[1]
    counts = np.concatenate([cv2.calcHist([rgb], [channel], None, [256], [0, 256]) for channel in range(3)])
    counts = counts.ravel().astype(np.float64)
    # -sum p log p with p = count / pixels; an empty bin counts as 1 log 1 = 0.
    return max(0.0, float(np.log2(pixels) - counts @ np.log2(np.maximum(counts, 1)) / (3 * pixels)))


def saturation(rgb: np.ndarray) -> float:
    """Mean saturation of HSV, (max - min) / max of a pixel's three values (0 for black); 0..1.

    Each pixel's value is rounded to 1/255, so the mean is within 0.002 of the exact one. 0 for greyscale images.
    (Smith 1978, "Color gamut transform pairs".)
    """
    _check(rgb)
    return cv2.mean(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV))[1] / 255


def brightness(rgb: np.ndarray) -> float:
    """Mean luma, 0.299 R + 0.587 G + 0.114 B of the gamma-encoded values (ITU-R BT.601); grey levels, 0..255.

    Each pixel's luma is rounded first.
    """
    return cv2.mean(luma(rgb))[0]


def clarity(rgb: np.ndarray) -> float:
    """Variance of the Laplacian of luma (kernel 0 1 0 / 1 -4 1 / 0 1 0, edges repeated); grey levels squared, >= 0.

    How much fine detail the image has. Grows with contrast and with noise, falls with blur. (Pech-Pacheco et al. 2000,
    "Diatom autofocusing in brightfield microscopy: a comparative study", measure LAPV.)
    """
    return _laplacian_power(luma(rgb))


def sharpness(rgb: np.ndarray) -> float:
    """Power of luma's Laplacian over the power of its gradient: how fine the detail is, whatever its contrast; 0..8.

    Both powers are sums of the spectrum, weighted by w^2 and w with w = 4 - 2 cos u - 2 cos v at the frequency (u, v):
    their ratio is the mean of w over the gradient's energy, so it depends on neither content nor contrast as clarity
    does. Photographs in focus have amplitude spectra near 1/f, which look alike at every scale (Field 1987, "Relations
    between the statistics of natural images and the response properties of cortical cells"), so their values lie close
    together, and blur lowers them. White noise has 5; 0 for a constant image. (The squared mobility of a signal's
    derivative, in two dimensions: Hjorth 1970, "EEG analysis based on time domain properties".)
    """
    grey = luma(rgb)
    gradient = _gradient_power(grey)
    return _laplacian_power(grey) / gradient if gradient else 0.0


def texture(rgb: np.ndarray) -> float:
    """Mean standard deviation of luma within blocks of 8 x 8 pixels; grey levels, 0..127.5.

    How busy the image is all over: large empty surfaces pull it down, however strong the contrast between them. Blocks
    that the right or lower edge cuts are left out; an image narrower than a block is one block wide. (The standard
    deviation as texture descriptor: Gonzalez and Woods, "Digital Image Processing", chapter "Feature extraction",
    statistical approaches to texture.)
    """
    return _block_deviation(luma(rgb))


def luma(rgb: np.ndarray) -> np.ndarray:
    """0.299 R + 0.587 G + 0.114 B, rounded: uint8 (height, width)."""
    _check(rgb)
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)


def _check(rgb: np.ndarray) -> None:
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.size == 0:
        raise ValueError(f"expected RGB uint8 (height, width, 3), got {rgb.dtype} {rgb.shape}")


def _laplacian_power(grey: np.ndarray) -> float:
    """Mean square of the Laplacian; with repeated edges its mean is exactly 0, so this is its variance."""
    laplacian = cv2.Laplacian(grey, cv2.CV_16S, ksize=1, borderType=cv2.BORDER_REPLICATE)
    return cv2.norm(laplacian, cv2.NORM_L2SQR) / grey.size


def _gradient_power(grey: np.ndarray) -> float:
    """Sum of squared differences between neighbours, over the number of pixels."""
    pairs = ((grey[1:], grey[:-1]), (grey[:, 1:], grey[:, :-1]))
    return sum(cv2.norm(a, b, cv2.NORM_L2SQR) for a, b in pairs if a.size) / grey.size


def _block_deviation(grey: np.ndarray) -> float:
    height, width = (min(BLOCK, length) for length in grey.shape)
    sums, squares = cv2.integral2(grey, sdepth=cv2.CV_32S, sqdepth=cv2.CV_64F)
    total = _block_sums(sums[::height, ::width])
    total_of_squares = _block_sums(squares[::height, ::width])
    pixels = height * width
    # The deviation times the pixels, from whole numbers: nothing to lose by cancellation.
    return float(np.sqrt(pixels * total_of_squares - total * total).mean() / pixels)


def _block_sums(corners: np.ndarray) -> np.ndarray:
    """Sums over blocks, from an integral image's values at the blocks' corners."""
    return corners[1:, 1:] - corners[:-1, 1:] - corners[1:, :-1] + corners[:-1, :-1]
