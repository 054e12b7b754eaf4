"""One way to decode and to encode an image, used everywhere.

`decode` gives every image the same form, whatever its file was: RGB, uint8, (height, width, 3), upright. EXIF rotation
is applied; CMYK, palette, 16-bit, float, greyscale and alpha (over white) are converted. What cannot be read completely
raises `ImageError` with the reason: a truncated file is an error, never a picture with a grey half. Colour profiles are
not applied: the numbers in the file are taken as sRGB.

Pillow reads every format and has the last word on what is damaged. A JPEG that is whole from its first marker to its
last takes a faster road to the same pixels, through OpenCV.
"""

from __future__ import annotations

import functools
import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 178_956_970
"""Images of more pixels are refused unread (Pillow's own decompression-bomb limit: 0.25 GB as grey, 0.5 GB as RGB8)."""

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "AVIF", "JPEG2000", "PPM")
"""Pillow's names of the formats that are read, where its build has them. Formats that run other programs (EPS) or that
have no signature to know them by are left out."""

EXIF_ORIENTATION = 0x0112

# The limit is ours, in `_open`: Pillow's own check is a warning first, then an error at twice the limit.
Image.MAX_IMAGE_PIXELS = None


Inspect = Callable[[np.ndarray, int], object]
"""inspect(pixels, scale): RGB uint8 (height, width, 3), read-only, as they lie in the file: neither reduced by area
averaging nor turned upright, so that what is tied to the file's grid (JPEG's blocks) is where it was. scale: pixels of
the file to one of these, 1, 2, 4 or 8. Gone after the call: at full size they would fill the memory."""


class ImageError(Exception):
    """An image that cannot be decoded; the message says why."""


@dataclass(frozen=True)
class ImageInfo:
    """What the header tells, without decoding.

    width, height: pixels, after EXIF rotation. format: Pillow's name ("JPEG", "PNG", ...).
    plain: True when any reader that just decodes the bytes to RGB gets what `decode` gives (no EXIF rotation, CMYK,
    alpha or more than 8 bits); only such bytes may be handed on to others as they are.
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
            rgb = _decode_jpeg(image, data, scale)
            if rgb is None:
                rgb = _decode_pillow(image, scale)
            orientation = _orientation(image, data)
        except Exception as error:  # Pillow's plugins raise errors of every kind on damaged files
            raise ImageError(f"cannot decode {image.format or 'image'} of {len(data)} bytes: {error}") from error
    if inspect is not None:
        shown = rgb.view()
        shown.flags.writeable = False
        inspect(shown, scale)
    if size != (rgb.shape[1], rgb.shape[0]):
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    return _turn_upright(rgb, orientation)


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
            return np.array(image.convert("L")) > 127
        except Exception as error:  # as in `decode`
            raise ImageError(f"cannot decode the mask of {len(data)} bytes: {error}") from error


def _open(data: bytes) -> Image.Image:
    if not data:
        raise ImageError("empty file (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=_readable_formats())
    except UnidentifiedImageError as error:
        names = ", ".join(_readable_formats())
        raise ImageError(
            f"not an image, or its header is damaged: {len(data)} bytes, first {data[:8]!r} (read: {names})"
        ) from error
    except Exception as error:  # as in `decode`
        raise ImageError(f"damaged image header: {error}") from error
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width} x {image.height}"
        raise ImageError(f"decompression bomb: {size} pixels is over the limit of {MAX_PIXELS} pixels")
    return image


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


def _turn_upright(rgb: np.ndarray, orientation: int) -> np.ndarray:
    """Undo EXIF orientation 1..8 (Exif 2.32, tag 0x0112)."""
    if orientation in (5, 6, 7, 8):
        rgb = cv2.transpose(rgb)
    # Flips that remain once 5..8 are transposed: 0 over the rows, 1 over the columns, -1 over both.
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return rgb if flip is None else cv2.flip(rgb, flip)


def _dct_scale(image: Image.Image, side: int | None) -> int:
    """The largest of 8, 4, 2, 1 at which a JPEG may be decoded on its way to the longer side `side`.

    A scaled decode averages areas too, so it may go all the way, where `side` is exactly that fraction. Otherwise it
    stops at twice `side` or more: averaging what was averaged to little more than `side` would blur a second time (at
    1.2 times `side` the Laplacian's variance is half of what it is without the scaled decode).
    """
    if side is None or image.format not in ("JPEG", "MPO") or image.mode not in ("RGB", "L"):
        return 1
    longer = max(image.size)
    return next((scale for scale in (8, 4, 2) if longer == side * scale or longer >= 2 * side * scale), 1)


_BGR_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
# From OpenCV 4.11 on, and only at full size, where swapping channels afterwards would cost a quarter of the decode.
_RGB_FLAG: int | None = getattr(cv2, "IMREAD_COLOR_RGB", None)


def _decode_jpeg(image: Image.Image, data: bytes, scale: int) -> np.ndarray | None:
    """A complete RGB or grey JPEG through OpenCV, not rotated; None where Pillow should read it, or say what is wrong.

    The same libjpeg-turbo as Pillow's, without its two copies of the pixels: 15 % faster at 1/2, 40 % at full size.
    OpenCV may return what it has of a truncated file, hence the check beforehand.
    """
    if image.format not in ("JPEG", "MPO") or image.mode not in ("RGB", "L") or not _is_complete_jpeg(data):
        return None
    flag = _BGR_FLAGS[scale] if scale > 1 or _RGB_FLAG is None else _RGB_FLAG
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
    if pixels is None or pixels.shape != (-(-image.height // scale), -(-image.width // scale), 3):
        return None
    return pixels if flag == _RGB_FLAG else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


# After the first scan: stuffing, Huffman tables, restarts and all from SOI to APPn, comments, fill bytes may come.
_IMPOSSIBLE = re.compile(rb"\xff[^\x00\xc4\xd0-\xef\xfe\xff]")


def _is_complete_jpeg(data: bytes) -> bool:
    """True where the markers lead from SOI to the first scan, an EOI comes after it, and no marker after the first scan
    is one that cannot stand there (ITU-T T.81, annex B).

    Segments are skipped by their length, so the EOI of a thumbnail inside the EXIF segment does not count; within a
    scan the EOI's two bytes cannot occur, because each 0xFF there is followed by a stuffed zero or a restart marker.
    Bytes that were written over the scan soon have a 0xFF followed by something else.
    """
    position = 2
    while position + 3 < len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xDA:
            return data.rfind(b"\xff\xd9", position) != -1 and _IMPOSSIBLE.search(data, position) is None
        # A marker may be preceded by any number of fill bytes 0xFF.
        position += 1 if marker == 0xFF else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return False


def _decode_pillow(image: Image.Image, scale: int) -> np.ndarray:
    if scale > 1:
        image.draft(None, (image.width // scale, image.height // scale))
    image.load()
    return _to_rgb(image)


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        grey = _to_8_bit(values)
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            grey[values == transparent] = 255
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        # From premultiplied alpha, Pillow converts only within the same family.
        straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
        rgba = (image.convert(straight) if straight else image).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba)
    return np.array(image.convert("RGB"))


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    """16-bit greyscale by its full range; 32-bit and float images by their own range where they exceed it.

    Float images within 0..1 are scaled by 255; those, and integers, within 0..255 are taken as they are. Values that
    are not finite become the nearest finite one (NaN: 0).
    """
    kind, low, high = values.dtype.kind, values.min(), values.max()
    if (kind == "u" and values.dtype.itemsize == 2) or (kind == "i" and low >= 0 and 255 < high <= 65535):
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    finite = values[np.isfinite(values)].astype(np.float64)
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    wide = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=high, neginf=low)
    low, high = min(low, float(wide.min())), max(high, float(wide.max()))
    if low >= 0 and high <= 1 and kind == "f":
        wide = wide * 255
    elif not (low >= 0 and high <= 255):
        wide = (wide - low) / max(high - low, 1e-12) * 255
    return np.rint(wide).astype(np.uint8)
