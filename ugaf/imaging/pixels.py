"""From whatever Pillow decoded to RGB uint8: its modes, alpha over white, wide greys, profiles, EXIF rotation."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from ugaf.imaging import profiles

_STRAIGHT = {"La": "LA", "RGBa": "RGBA"}


def to_rgb(image: Image.Image) -> np.ndarray:
    """RGB uint8 (height, width, 3) in sRGB, writable; alpha lies over white."""
    conversion = profiles.conversion(image.info.get("icc_profile"), image.mode)
    if image.mode.startswith("I") or image.mode == "F":
        return _wide_grey(image, conversion)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        # From premultiplied alpha, Pillow converts only within the same family.
        straight = image.convert(_STRAIGHT[image.mode]) if image.mode in _STRAIGHT else image
        rgba = straight.convert("RGBA")
        if conversion is not None:
            colours = conversion.of(rgba.convert("RGB"))
            colours.putalpha(rgba.getchannel("A"))
            rgba = colours
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba)
        conversion = None
    if conversion is not None and conversion.mode == "CMYK":
        return np.array(conversion.of(image))
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    return np.array(rgb if conversion is None else conversion.of(rgb))


def _wide_grey(image: Image.Image, conversion: profiles.Conversion | None) -> np.ndarray:
    values = np.asarray(image)
    rgb = np.repeat(to_8_bit(values, declared_range(image))[..., None], 3, axis=2)
    if conversion is not None:
        rgb = conversion.of_pixels(rgb)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        rgb[values == transparent] = 255
    return rgb


def declared_range(image: Image.Image) -> int | None:
    """The largest value that a TIFF says its samples may have; None where it says nothing of it."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(258)
    if isinstance(bits, tuple) and 8 < bits[0] < 16:
        return (1 << bits[0]) - 1
    for tag in (281, 341):  # MaxSampleValue, SMaxSampleValue
        value = tags.get(tag)
        value = value[0] if isinstance(value, tuple) and value else value
        if isinstance(value, int) and 255 < value < 65535:
            return value
    return None


def to_8_bit(values: np.ndarray, largest: int | None = None) -> np.ndarray:
    """16-bit greyscale by its range; 32-bit and float images by their own range where they exceed it.

    The range of 16-bit values is `largest` where the file declares it. Otherwise it is that of the fewest bits of 8,
    10, 12 or 16 that hold every value: cameras and scanners put 10 and 12 bits into 16, and a picture of 16 bits whose
    brightest spot is a sixteenth of white would be black.
    Float images within 0..1 are scaled by 255; those, and integers, within 0..255 are taken as they are. Values that
    are not finite become the nearest finite one (NaN: 0).
    """
    kind, low, high = values.dtype.kind, values.min(), values.max()
    if (kind == "u" and values.dtype.itemsize == 2) or (kind == "i" and low >= 0 and 255 < high <= 65535):
        full = largest if largest is not None and largest >= high else _range_of(int(high))
        return ((values.astype(np.uint32) * 255 + full // 2) // full).astype(np.uint8)
    finite = values[np.isfinite(values)].astype(np.float64)
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    wide = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=high, neginf=low)
    low, high = min(low, float(wide.min())), max(high, float(wide.max()))
    if low >= 0 and high <= 1 and kind == "f":
        wide = wide * 255
    elif not (low >= 0 and high <= 255):
        wide = (wide - low) / max(high - low, 1e-12) * 255
    return np.rint(wide).astype(np.uint8)


def _range_of(highest: int) -> int:
    return next(full for full in (255, 1023, 4095, 65535) if highest <= full)


def turn_upright(rgb: np.ndarray, orientation: int) -> np.ndarray:
    """Undo EXIF orientation 1..8 (Exif 2.32, tag 0x0112)."""
    if orientation in (5, 6, 7, 8):
        rgb = cv2.transpose(rgb)
    # Flips that remain once 5..8 are transposed: 0 over the rows, 1 over the columns, -1 over both.
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return rgb if flip is None else cv2.flip(rgb, flip)
