"""What a photograph looks like in numbers: colourful or grey, sharp or soft, light or dark, plain or busy, and damaged.

Each measure is a pure function of RGB uint8 pixels (height, width, 3) and is deterministic. This module has those of
tone, colour and detail; `ugaf.measures.artifacts` those of what recording and saving left in the picture. All but
brightness, contrast and saturation depend on the size of the image: compare values only between images that were
reduced to the same longer side (`images.decode(data, side)`). `measure` computes any of them over shared planes.

FineEdit (arXiv 2604.10954, section 4.1) and FireRed-Image-Edit (section 2.2.2) name descriptors and publish neither
formulas nor thresholds; the formulas here are stated with their own sources.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import cv2
import numpy as np

from ugaf.base.errors import nearest
from ugaf.imaging.planes import Planes
from ugaf.measures import artifacts

BLOCK = 8
"""Side in pixels of the blocks that `texture` looks at."""

NEAR = 4
"""Levels of Cb and of Cr by which a pixel may differ from a tone and still be near it, in `grey_share`."""

NEUTRAL = 128
"""Cb and Cr of a grey pixel."""

Picture = np.ndarray | Planes
"""RGB uint8 (height, width, 3), or the planes of it."""


def measure(rgb: np.ndarray, names: Iterable[str] | None = None) -> dict[str, float | None]:
    """The named measures of one image (all of `MEASURES` if none are named), in the order of `MEASURES`.

    Args:
        rgb: uint8 (height, width, 3), already at the working size.
        names: of `MEASURES`; blockiness is not among them, since it looks at an image before it is reduced.

    Raises:
        ValueError: not RGB uint8, or empty; or a name that is no measure.
    """
    planes = Planes(rgb)
    wanted = set(MEASURES if names is None else names)
    for name in wanted - set(MEASURES):
        raise ValueError(f"no measure is called {name!r}{nearest(name, MEASURES)}")
    return {name: function(planes) for name, function in MEASURES.items() if name in wanted}


def rgb_entropy(picture: Picture) -> float:
    """Mean over the three channels of the Shannon entropy of the channel's 256-bin histogram; bits, 0..8.

    0 for a constant image, 8 where each channel uses all 256 values equally. Greyscale images can score high: this
    measures how many tones there are, not colour. (Shannon 1948.)
    """
    planes = Planes.of(picture)
    counts = np.concatenate([cv2.calcHist([plane], [0], None, [256], [0, 256]) for plane in planes.channels])
    counts = counts.ravel().astype(np.float64)
    # -sum p log p with p = count / pixels; an empty bin counts as 1 log 1 = 0.
    return max(0.0, float(np.log2(planes.pixels) - counts @ np.log2(np.maximum(counts, 1)) / (3 * planes.pixels)))


def saturation(picture: Picture) -> float:
    """Mean saturation of HSV, (max - min) / max of a pixel's three values (0 for black); 0..1.

    Each pixel's value is rounded to 1/255, so the mean is within 0.002 of the exact one. 0 for greyscale images.
    (Smith 1978, "Color gamut transform pairs".)
    """
    planes = Planes.of(picture)
    spread = cv2.subtract(planes.highest, planes.lowest)
    # OpenCV's whole-number division by 0 gives 0.
    return cv2.mean(cv2.divide(spread, planes.highest, scale=255))[0] / 255


def colourfulness(picture: Picture) -> float:
    """Hasler and Suesstrunk's M: how far colours lie apart and from grey; 0 (greyscale) to below 300.

    With rg = R - G and yb = (R + G) / 2 - B of every pixel: sqrt(var rg + var yb) + 0.3 sqrt(mean(rg)^2 + mean(yb)^2).
    The paper's viewers called 15 slightly, 33 moderately, 59 quite and 109 extremely colourful. (Hasler and Suesstrunk
    2003, "Measuring colourfulness in natural images", the metric for RGB with the weight 0.3.)
    """
    planes = Planes.of(picture)
    red, green, blue = planes.channels
    red_green, red_blue, green_blue = (
        cv2.norm(a, b, cv2.NORM_L2SQR) / planes.pixels for a, b in ((red, green), (red, blue), (green, blue))
    )
    # Squares of differences of channels are all that is needed: 4 yb^2 = 2 (R - B)^2 + 2 (G - B)^2 - (R - G)^2.
    yellow_blue = (2 * red_blue + 2 * green_blue - red_green) / 4
    mean_red, mean_green, mean_blue = (cv2.mean(plane)[0] for plane in planes.channels)
    rg, yb = mean_red - mean_green, (mean_red + mean_green) / 2 - mean_blue
    variance = max(0.0, red_green - rg * rg) + max(0.0, yellow_blue - yb * yb)
    return float(np.sqrt(variance) + 0.3 * np.hypot(rg, yb))


def grey_share(picture: Picture) -> float:
    """Share of the pixels whose colour is that of a black-and-white picture, toned or not; 0..1.

    A pixel is near a tone if its Cb and its Cr (BT.601, full range) each differ from the tone's by `NEAR` levels at
    most. Counted are the pixels near grey, or, if they are more, those near the picture's own tint: the mean Cb and Cr
    (rounded) of all its pixels of the same luma. In a sepia or otherwise toned print the colour follows from the luma,
    so both kinds give 1, whatever the toning; a colour photograph has several colours of every lightness. Looked at
    are the means of 2 x 2 pixels (an odd last line is left out), which takes away some of a print's colour noise.
    (The colour space is JFIF's, ITU-T T.871. The measure is ugaf's own.)
    """
    planes = Planes.of(picture)
    grey, cr, cb = cv2.split(cv2.cvtColor(_halved(planes.rgb), cv2.COLOR_RGB2YCrCb))
    levels = grey.ravel()
    counts = np.maximum(np.bincount(levels, minlength=256), 1)
    near_tint, near_grey = [], []
    for chroma in (cr, cb):
        tint = np.rint(np.bincount(levels, chroma.ravel(), minlength=256) / counts).astype(np.uint8)
        near_tint.append(cv2.absdiff(chroma, cv2.LUT(grey, tint)))
        near_grey.append(cv2.absdiff(chroma, np.full_like(chroma, NEUTRAL)))
    return max(_near(*near_tint), _near(*near_grey)) / grey.size


def brightness(picture: Picture) -> float:
    """Mean luma, 0.299 R + 0.587 G + 0.114 B of the gamma-encoded values (ITU-R BT.601); grey levels, 0..255.

    Each pixel's luma is rounded first.
    """
    return Planes.of(picture).grey_mean_and_deviation[0]


def contrast(picture: Picture) -> float:
    """RMS contrast: the standard deviation of luma; grey levels, 0 (one grey) to 127.5 (half black, half white).

    Over 255 it is the number of the source, where luma lies in 0..1. (Peli 1990, "Contrast in complex
    images".)
    """
    return Planes.of(picture).grey_mean_and_deviation[1]


def clarity(picture: Picture) -> float:
    """Variance of the Laplacian of luma (kernel 0 1 0 / 1 -4 1 / 0 1 0, edges repeated); grey levels squared, >= 0.

    How much fine detail the image has. Grows with contrast and with noise, falls with blur. (Pech-Pacheco et al. 2000,
    "Diatom autofocusing in brightfield microscopy: a comparative study", measure LAPV.)
    """
    return Planes.of(picture).laplacian_power


def sharpness(picture: Picture) -> float:
    """Power of luma's Laplacian over the power of its gradient: how fine the detail is, whatever its contrast; 0..8.

    Both powers are sums of the spectrum, weighted by w^2 and w with w = 4 - 2 cos u - 2 cos v at the frequency (u, v):
    their ratio is the mean of w over the gradient's energy, so it depends on neither content nor contrast as clarity
    does. Photographs in focus have amplitude spectra near 1/f, which look alike at every scale (Field 1987, "Relations
    between the statistics of natural images and the response properties of cortical cells"), so their values lie close
    together, and blur lowers them. White noise has 5; 0 for a constant image. (The squared mobility of a signal's
    derivative, in two dimensions: Hjorth 1970, "EEG analysis based on time domain properties".)
    """
    planes = Planes.of(picture)
    gradient = _gradient_power(planes.grey)
    return planes.laplacian_power / gradient if gradient else 0.0


def texture(picture: Picture) -> float:
    """Mean standard deviation of luma within blocks of 8 x 8 pixels; grey levels, 0..127.5.

    How busy the image is all over: large empty surfaces pull it down, however strong the contrast between them. Blocks
    that the right or lower edge cuts are left out; an image narrower than a block is one block wide. (The standard
    deviation as texture descriptor: Gonzalez and Woods, "Digital Image Processing", chapter "Feature extraction",
    statistical approaches to texture.)
    """
    grey = Planes.of(picture).grey
    height, width = (min(BLOCK, length) for length in grey.shape)
    sums, squares = cv2.integral2(grey, sdepth=cv2.CV_32S, sqdepth=cv2.CV_64F)
    total = _block_sums(sums[::height, ::width])
    total_of_squares = _block_sums(squares[::height, ::width])
    pixels = height * width
    # The deviation times the pixels, from whole numbers: nothing to lose by cancellation.
    return float(np.sqrt(pixels * total_of_squares - total * total).mean() / pixels)


def luma(rgb: np.ndarray) -> np.ndarray:
    """0.299 R + 0.587 G + 0.114 B, rounded: uint8 (height, width)."""
    return Planes(rgb).grey


MEASURES: Mapping[str, Callable[[Planes], float | None]] = {
    "rgb_entropy": rgb_entropy,
    "saturation": saturation,
    "clarity": clarity,
    "sharpness": sharpness,
    "brightness": brightness,
    "texture": texture,
    "contrast": contrast,
    "colourfulness": colourfulness,
    "clipped_dark": artifacts.clipped_dark,
    "clipped_bright": artifacts.clipped_bright,
    "noise_level": artifacts.noise_level,
    "border": artifacts.border,
    "grey_share": grey_share,
}
"""What `measure` computes, by name. Null stands for what an image is too small to have."""


def _halved(rgb: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels, or of what there is of them in an image one pixel wide or high."""
    height, width = (length - length % 2 if length > 1 else 1 for length in rgb.shape[:2])
    return cv2.resize(rgb[:height, :width], (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA)


def _near(cr_apart: np.ndarray, cb_apart: np.ndarray) -> int:
    """How many pixels differ by `NEAR` at most in both planes."""
    _, far = cv2.threshold(cv2.max(cr_apart, cb_apart), NEAR, 255, cv2.THRESH_BINARY)
    return far.size - cv2.countNonZero(far)


def _gradient_power(grey: np.ndarray) -> float:
    """Sum of squared differences between neighbours, over the number of pixels."""
    pairs = ((grey[1:], grey[:-1]), (grey[:, 1:], grey[:, :-1]))
    return sum(cv2.norm(a, b, cv2.NORM_L2SQR) for a, b in pairs if a.size) / grey.size


def _block_sums(corners: np.ndarray) -> np.ndarray:
    """Sums over blocks, from an integral image's values at the blocks' corners."""
    return corners[1:, 1:] - corners[:-1, 1:] - corners[1:, :-1] + corners[:-1, :-1]
