"""Colour profiles: what a file's numbers mean, brought to sRGB once, where it is decoded.

An ICC profile that is sRGB under another name (every colour within two levels of itself) changes nothing. One that is
damaged, or made for another kind of picture, says nothing: the numbers are taken as sRGB. PNG's gAMA, cHRM and cICP and
the colour space that AVIF and EXIF declare without a profile are not applied, because most readers ignore them; a PNG
or AVIF that declares another space by them is only not `plain`, so that nobody sees another picture in an export.
"""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from ugaf.imaging.integrity import DamageError, png_chunks

NEARLY = 2
"""Levels of 255 by which a profile may differ from sRGB and still be taken for it."""

_SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}


@dataclass(frozen=True)
class Conversion:
    """From a profile to sRGB. `mode`: of the pictures it takes ("RGB", "L", "CMYK")."""

    mode: str
    transform: Any

    def of(self, image: Image.Image) -> Image.Image:
        """An image of this mode (for "L" also a grey RGB one) as sRGB."""
        if self.mode == "L" and image.mode == "RGB":
            image = image.getchannel(0)
        converted = ImageCms.applyTransform(image, self.transform)
        assert converted is not None
        return converted

    def of_pixels(self, rgb: np.ndarray) -> np.ndarray:
        """RGB uint8 (height, width, 3) as sRGB."""
        return np.array(self.of(Image.fromarray(rgb)))


def conversion(profile: Any, mode: str) -> Conversion | None:
    """How pixels with this ICC profile become sRGB; None where they are, or where the profile is of no use.

    Args:
        profile: the file's ICC profile, or None.
        mode: Pillow's mode of the file.
    """
    if not isinstance(profile, bytes) or len(profile) < 128:
        return None
    return _conversion(profile, _KINDS.get(mode, "RGB"))


_KINDS = {"CMYK": "CMYK", "F": "L"} | dict.fromkeys(("L", "LA", "La", "1", "I", "I;16", "I;16B", "I;16L"), "L")


@functools.lru_cache(maxsize=64)
def _conversion(profile: bytes, kind: str) -> Conversion | None:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _SPACES.get(source.profile.xcolor_space)
        # A grey picture may have an RGB profile: its levels are greys of it.
        if mode is None or (mode == "CMYK") != (kind == "CMYK") or (mode == "L" and kind == "RGB"):
            return None
        target = ImageCms.createProfile("sRGB")
        made = Conversion(mode, ImageCms.buildTransform(source, target, mode, "RGB"))
        if mode != "CMYK":
            sample = _colours() if mode == "RGB" else _greys()
            if np.abs(made.of_pixels(sample).astype(int) - sample).max() <= NEARLY:
                return None
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # a damaged profile
        return None
    return made


def _colours() -> np.ndarray:
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    return np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)


def _greys() -> np.ndarray:
    return np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)


def declares_another_space(image: Image.Image, data: bytes) -> bool:
    """Whether a PNG or AVIF names a colour space other than sRGB by what is no ICC profile."""
    if image.format == "PNG":
        return _png_declares(image, data)
    if image.format == "AVIF":
        place = data.find(b"colrnclx", 0, 1 << 16)
        primaries, transfer = (int.from_bytes(data[place + at : place + at + 2], "big") for at in (8, 10))
        # BT.709's primaries, and the curves that decoders take for sRGB's; 2: not specified.
        return place != -1 and (primaries not in (1, 2) or transfer not in (1, 2, 6, 13, 14, 15))
    return False


def _png_declares(image: Image.Image, data: bytes) -> bool:
    if (space := _png_cicp(data)) is not None:
        return space[:2] != b"\x01\x0d"
    if "srgb" in image.info or "icc_profile" in image.info:
        return False
    gamma, chromaticity = image.info.get("gamma"), image.info.get("chromaticity")
    if gamma is not None and abs(gamma - 1 / 2.2) > 0.005:
        return True
    standard = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
    return chromaticity is not None and any(abs(a - b) > 0.005 for a, b in zip(chromaticity, standard, strict=False))


def _png_cicp(data: bytes) -> bytes | None:
    try:
        for name, content, _ in png_chunks(data):
            if name == b"cICP":
                return bytes(content)
            if name == b"IDAT":
                break
    except DamageError:
        return None
    return None
