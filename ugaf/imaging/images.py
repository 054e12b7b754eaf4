"""One way to decode and to encode an image, used everywhere.

`decode` gives every image the same form, whatever its file was: RGB, uint8, (height, width, 3), upright, sRGB. EXIF
rotation and colour profiles are applied; CMYK, palette, 16-bit, float, greyscale and alpha (over white) are
converted. What was not read to its end raises `ImageError` with the reason: a damaged file is an error, never a picture
with a grey half (see `ugaf.imaging.integrity`).

Pillow opens every format and decodes all but RGB and grey JPEGs, which a strict libjpeg-turbo reads to the same pixels.
"""

from __future__ import annotations

import functools
import io
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from ugaf.base.failure import RowError
from ugaf.imaging import integrity, kinds, libtiff, profiles
from ugaf.imaging.pixels import to_rgb, turn_upright

MAX_PIXELS = integrity.MAX_PIXELS
"""Images of more pixels are refused unread."""

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "AVIF", "JPEG2000", "PPM")
"""Pillow's names of the formats that are read, where its build has them. Formats that run other programs (EPS) or that
have no signature to know them by are left out."""

EXIF_ORIENTATION = 0x0112

Inspect = Callable[[np.ndarray, int], object]
"""inspect(pixels, scale): RGB uint8 (height, width, 3), read-only, as they lie in the file: neither reduced by area
averaging nor turned upright, so that what is tied to the file's grid (JPEG's blocks) is where it was; a JPEG's colours
are still those of its profile. scale: pixels of the file to one of these, 1, 2, 4 or 8. Gone after the call: at full
size they would fill the memory."""


class ImageError(RowError):
    """An image that cannot be decoded; the message says why."""


@dataclass(frozen=True)
class ImageInfo:
    """What the header tells, without decoding.

    width, height: pixels, after EXIF rotation. format: Pillow's name ("JPEG", "PNG", ...).
    plain: True when any reader that just decodes the bytes to RGB gets what `decode` gives, whether or not it applies
    colour profiles (no EXIF rotation, CMYK, alpha, more than 8 bits, or colour space other than sRGB); only such bytes
    may be handed on to others as they are.
    """

    width: int
    height: int
    format: str
    plain: bool


def probe(data: bytes) -> ImageInfo:
    """Size and format from the header. Raises ImageError for what is not an image, or has too many pixels."""
    with _open(data) as image:
        width, height = image.size
        orientation = _orientation(image, data)
        # Pillow gives a TIFF's size already rotated.
        if orientation in (5, 6, 7, 8) and image.format != "TIFF":
            width, height = height, width
        plain = (
            orientation == 1
            and image.mode in ("RGB", "L", "P", "1")
            and "transparency" not in image.info
            and not any(";16" in str(tile) for tile in getattr(image, "tile", ()))
            and profiles.conversion(image.info.get("icc_profile"), image.mode) is None
            and not profiles.declares_another_space(image, data)
        )
        return ImageInfo(width, height, image.format or "unknown", plain)


def decode(data: bytes, side: int | None = None, inspect: Inspect | None = None) -> np.ndarray:
    """Decode to RGB uint8 (height, width, 3), upright.

    Args:
        data: the file's bytes.
        side: reduce the longer side to this many pixels (never enlarge), by area averaging. A JPEG is decoded at 1/2,
            1/4 or 1/8 where that gives nearly the same pixels for less work: see `_dct_scale`.
        inspect: is shown the pixels as the decoder gives them, on their way: see `Inspect`.

    Raises:
        ImageError: empty, not an image, truncated or corrupt, or over MAX_PIXELS.
        Exception: what `inspect` raises, as it is.
    """
    with _open(data) as image:
        try:
            size = fit(*image.size, side if side is not None else max(image.size))
            scale = _dct_scale(image, side)
            conversion = None
            if _is_rgb_jpeg(image):
                rgb = integrity.read_jpeg(data, image.size, scale)
                conversion = profiles.conversion(image.info.get("icc_profile"), image.mode)
            else:
                rgb = _decode_pillow(image, data)
            orientation = _orientation(image, data)
        except Exception as error:  # Pillow's plugins raise errors of every kind on damaged files
            raise ImageError(f"cannot decode {image.format or 'image'} of {len(data)} bytes: {error}") from error
    if inspect is not None:
        shown = rgb.view()
        shown.flags.writeable = False
        inspect(shown, scale)
    if size != (rgb.shape[1], rgb.shape[0]):
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    if conversion is not None:
        rgb = conversion.of_pixels(rgb)
    return turn_upright(rgb, orientation)


def fit(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) scaled down so that the longer is `side`; unchanged if it is already smaller.

    The shorter is rounded up, as libjpeg does in its scaled decodes: a JPEG whose longer side is 2, 4 or 8 times
    `side` then needs no second step.
    """
    longer = max(width, height)
    if longer <= side:
        return width, height
    return -(-width * side // longer), -(-height * side // longer)


def encode(rgb: np.ndarray, format: Literal["png", "jpeg", "webp"] = "png", quality: int | None = None) -> bytes:
    """Encode RGB uint8 (height, width, 3), or a mask uint8 (height, width), reproducibly.

    Args:
        format: "png" is lossless; "webp" is lossless unless `quality` is given; "jpeg" is lossy (quality 95, 4:4:4,
            unless given).
        quality: 1..100 for jpeg and webp.
    """
    out = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(rgb))
    if format == "png":
        image.save(out, "PNG", compress_level=4)
    elif format == "jpeg":
        image.save(out, "JPEG", quality=95 if quality is None else quality, subsampling=0)
    elif quality is None:
        image.save(out, "WEBP", lossless=True, quality=50, method=2)
    else:
        image.save(out, "WEBP", quality=quality, method=4)
    return out.getvalue()


def encode_mask(mask: np.ndarray) -> bytes:
    """A boolean mask (height, width) as a 1-bit PNG."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(mask, dtype=bool)).save(out, "PNG", compress_level=6)
    return out.getvalue()


def decode_mask(data: bytes) -> np.ndarray:
    """A mask written by `encode_mask` (or any greyscale PNG: True where over half): bool (height, width)."""
    with _open(data) as image:
        try:
            integrity.check(data, image.format or "", image)
            return np.array(image.convert("L")) > 127
        except Exception as error:  # as in `decode`
            raise ImageError(f"cannot decode the mask of {len(data)} bytes: {error}") from error


@contextmanager
def _open(data: bytes) -> Iterator[Image.Image]:
    """The image with its header read. Pillow's warnings are no news within the block.

    Not by `Image.open`, whose limit of pixels is one for the whole process.
    """
    if not data:
        raise ImageError("empty file (0 bytes)")
    with warnings.catch_warnings(), libtiff.caught():
        warnings.simplefilter("ignore")
        with _opened(data) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(_too_big(image.width, image.height))
            yield image


def _opened(data: bytes) -> Image.Image:
    for name in _readable_formats():
        factory, accept = Image.OPEN[name]
        try:
            accepted = accept is None or accept(data[:16])
            # A text: the format is known, but missing from Pillow's build.
            if accepted and not isinstance(accepted, str):
                return factory(io.BytesIO(data), "")
        except (SyntaxError, IndexError, TypeError, struct.error):  # another format, or so damaged that it seems one
            continue
        except Exception as error:
            raise ImageError(_unreadable(data, f"damaged image header: {error}")) from error
    names = ", ".join(_readable_formats())
    raise ImageError(
        _unreadable(
            data, f"not an image, or its header is damaged: {len(data)} bytes, first {data[:8]!r} (read: {names})"
        )
    )


def _unreadable(data: bytes, reason: str) -> str:
    """`reason`, or what the bytes are instead."""
    size = kinds.size_of_avif(data)
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        return _too_big(*size)
    kind = kinds.name_of(data)
    if kind is None or kind in _readable_formats():
        return reason
    names = ", ".join(_readable_formats())
    return f"not an image that is read, but {kind}: {len(data)} bytes (read: {names})"


def _too_big(width: int, height: int) -> str:
    return f"decompression bomb: {width} x {height} pixels is over the limit of {MAX_PIXELS} pixels"


@functools.cache
def _readable_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _orientation(image: Image.Image, data: bytes) -> int:
    """EXIF orientation 1..8; 1 where there is none or where it cannot be read (the pixels are still good)."""
    if image.format == "PNG" and not any(name in data for name in _PNG_METADATA):
        return 1  # Pillow would decode the whole image to look for EXIF behind the pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # damaged EXIF raises errors of every kind
        return 1
    return value if value in range(1, 9) else 1


_PNG_METADATA = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")


def _dct_scale(image: Image.Image, side: int | None) -> int:
    """The largest of 8, 4, 2, 1 at which a JPEG may be decoded on its way to the longer side `side`.

    A scaled decode averages areas too, so it may go all the way, where `side` is exactly that fraction. Otherwise it
    stops at twice `side` or more: averaging what was averaged to little more than `side` would blur a second time (at
    1.2 times `side` the Laplacian's variance is half of what it is without the scaled decode).
    """
    if side is None or not _is_rgb_jpeg(image):
        return 1
    longer = max(image.size)
    return next((scale for scale in (8, 4, 2) if longer == side * scale or longer >= 2 * side * scale), 1)


def _is_rgb_jpeg(image: Image.Image) -> bool:
    return image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L")


def _decode_pillow(image: Image.Image, data: bytes) -> np.ndarray:
    with libtiff.caught() as complaints:
        try:
            integrity.check(data, image.format or "", image)
            image.load()
        except Exception as error:
            raise integrity.DamageError("; ".join([str(error), *complaints])) from error
        if complaints:
            raise integrity.DamageError("; ".join(complaints))
        return to_rgb(image)
