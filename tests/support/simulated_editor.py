"""A stand-in for a diffusion editor: known local edits, and what such an editor does to all the other pixels.

`local_edit` changes one region of a photograph and says which pixels it changed. `redraw` then treats the whole image
as a diffusion editor does: it works at about one megapixel with sides that are multiples of 16, shifts the content by a
few pixels, drifts in colour and replaces fine texture by texture of the same strength that is not the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

EDITS = ("recolour", "paste", "erase", "pattern", "lettering")


def local_edit(
    photo: np.ndarray,
    other: np.ndarray,
    kind: str,
    rng: np.random.Generator,
    areas: tuple[float, float] = (0.03, 0.3),
) -> tuple[np.ndarray, np.ndarray, tuple[int, int, int, int]]:
    """(edited image, mask of visibly changed pixels, box of that mask); the region covers `areas` of the image."""
    height, width = photo.shape[:2]
    for _ in range(50):
        region = _region(height, width, areas, rng)
        edited = _apply(photo, other, region, kind, rng)
        labs = [cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for image in (photo, edited)]
        visible = cv2.GaussianBlur(np.linalg.norm(labs[0] - labs[1], axis=2), (0, 0), 1.5) > 5
        visible = cv2.morphologyEx(visible.astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)).astype(bool)
        # Only edits that an eye sees over most of their region have a box worth asking for.
        if visible.sum() > 0.6 * region.sum() or (kind == "lettering" and visible.sum() > 0.15 * region.sum()):
            rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
            return edited, visible, (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    raise AssertionError(f"no visible {kind} edit found")


@dataclass(frozen=True)
class Redraw:
    """How an editor disturbs what it should leave alone.

    shift: pixels (x, y). scale: residual zoom. gain, offset, gamma: per channel, of values 0..1. texture: share of fine
    texture that is redrawn; coarse: how coarse, in pixels. wobble: standard deviation of local displacement, px.
    crop: share of width and height that is cut off around the centre. quality: of the final JPEG, or None. megapixels:
    working size, or None to keep the size.
    give_back: True if the result is brought back to the source's size, as most servers do.
    """

    shift: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    gamma: float = 1.0
    texture: float = 0.7
    coarse: float = 2.0
    wobble: float = 0.35
    crop: tuple[float, float] = (0.0, 0.0)
    quality: int | None = None
    megapixels: float | None = 1.0
    give_back: bool = True

    @classmethod
    def random(cls, rng: np.random.Generator, shift: float = 4.0) -> Redraw:
        return cls(
            shift=(float(rng.uniform(-shift, shift)), float(rng.uniform(-shift, shift))),
            scale=float(rng.choice([1.0, rng.uniform(0.99, 1.01)])),
            gain=tuple(float(v) for v in rng.uniform(0.95, 1.05, 3)),  # type: ignore[arg-type]
            offset=tuple(float(v) for v in rng.uniform(-0.02, 0.02, 3)),  # type: ignore[arg-type]
            gamma=float(rng.uniform(0.93, 1.08)),
            texture=float(rng.uniform(0.3, 1.0)),
            coarse=float(rng.uniform(1.5, 3.0)),
            wobble=float(rng.uniform(0.2, 0.5)),
            crop=(float(rng.choice([0, 0, 0, rng.uniform(0.02, 0.12)])), 0.0),
            quality=int(rng.choice([85, 92, 97])) if rng.random() < 0.5 else None,
            megapixels=float(rng.choice([0.8, 1.0, 1.05])),
            give_back=bool(rng.random() < 0.6),
        )


def redraw(image: np.ndarray, how: Redraw, rng: np.random.Generator) -> np.ndarray:
    """The image as the editor gives it: RGB uint8, at its working size or the original one."""
    height, width = image.shape[:2]
    size = (width, height)
    shown = width * (1 - how.crop[0]), height * (1 - how.crop[1])
    if how.megapixels is not None:
        factor = np.sqrt(how.megapixels * 1e6 / (shown[0] * shown[1]))
        size = (max(16, round(shown[0] * factor / 16) * 16), max(16, round(shown[1] * factor / 16) * 16))
    fx, fy = size[0] / shown[0], size[1] / shown[1]
    centre_x, centre_y = width / 2, height / 2
    matrix = np.array(
        [
            [how.scale * fx, 0, (shown[0] / 2 - how.scale * centre_x + how.shift[0]) * fx],
            [0, how.scale * fy, (shown[1] / 2 - how.scale * centre_y + how.shift[1]) * fy],
        ]
    )
    matrix[:, 2] += (
        np.array([fx - 1, fy - 1]) / 2
    )  # pixels are squares: their centres, not their corners, are at integers
    work = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    work = work.astype(np.float32) / 255
    work = _new_texture(work, how, rng)
    work = np.clip(work, 0, 1) ** how.gamma * np.array(how.gain, np.float32) + np.array(how.offset, np.float32)
    result = (np.clip(work, 0, 1) * 255 + 0.5).astype(np.uint8)
    if how.give_back and how.crop == (0.0, 0.0) and size != (width, height):
        shrink = width < size[0]
        result = cv2.resize(result, (width, height), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_CUBIC)
    if how.quality is not None:
        done, data = cv2.imencode(".jpg", result[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, how.quality])
        assert done
        result = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]
    return np.ascontiguousarray(result)


def _new_texture(work: np.ndarray, how: Redraw, rng: np.random.Generator) -> np.ndarray:
    """Replace a share of the fine texture by noise of the same local strength; edges wobble."""
    height, width = work.shape[:2]
    share = how.texture
    smooth = cv2.bilateralFilter(work, 2 * round(how.coarse) + 3, 0.08, how.coarse)
    fine = work - smooth
    strength = np.sqrt(cv2.GaussianBlur((fine * fine).mean(axis=2), (0, 0), 3.0))
    grain = cv2.GaussianBlur(rng.standard_normal((height, width)).astype(np.float32), (0, 0), 0.4 * how.coarse)
    grain *= strength / max(float(grain.std()), 1e-6)
    drawn = smooth + (1 - share) * fine + (0.8 * share) * grain[..., None]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    wobble = []
    for _ in range(2):
        field = rng.standard_normal((max(2, height // 24), max(2, width // 24))).astype(np.float32)
        wobble.append(how.wobble * cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC))
    return cv2.remap(drawn, x + wobble[0], y + wobble[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def _region(height: int, width: int, areas: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """A blob: an ellipse with a wavy border, wholly inside the image."""
    area = rng.uniform(*areas) * height * width
    aspect = float(np.exp(rng.uniform(-0.5, 0.5)))
    rx = min(float(np.sqrt(area * aspect / np.pi)), width * 0.42)
    ry = min(float(np.sqrt(area / aspect / np.pi)), height * 0.42)
    cx, cy = rng.uniform(1.1 * rx, width - 1.1 * rx), rng.uniform(1.1 * ry, height - 1.1 * ry)
    angle = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    radius = 1 + 0.1 * np.sin(3 * angle + rng.uniform(0, 6)) * rng.random()
    points = np.stack([cx + rx * radius * np.cos(angle), cy + ry * radius * np.sin(angle)], axis=1)
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 1)
    return mask.astype(bool)


def _apply(photo: np.ndarray, other: np.ndarray, region: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    soft = cv2.GaussianBlur(region.astype(np.float32), (0, 0), 1.2)[..., None]
    height, width = region.shape
    if kind == "recolour":
        hsv = cv2.cvtColor(photo, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = int(rng.integers(0, 180))
        hsv[..., 1] = np.maximum(hsv[..., 1], 150)
        new = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    elif kind == "paste":
        new = cv2.resize(other, (width, height), interpolation=cv2.INTER_AREA)
    elif kind == "erase":
        outside = photo[~region].reshape(-1, 3)
        new = np.full_like(photo, 0) + np.median(outside, axis=0).astype(np.uint8)
    elif kind == "pattern":
        period = max(4, width // 60)
        stripes = ((np.add.outer(np.arange(height), np.arange(width)) // period) % 2 * 60 - 30)[..., None]
        new = np.clip(photo.astype(np.int16) + stripes, 0, 255).astype(np.uint8)
    else:
        new = photo.copy()
        x, y, w, h = cv2.boundingRect(region.astype(np.uint8))
        size = h / 90
        ink = (250, 250, 240) if photo[region].mean() < 128 else (20, 15, 30)
        (tw, th), _ = cv2.getTextSize("OPEN", cv2.FONT_HERSHEY_DUPLEX, size, max(2, round(size * 3)))
        size *= min(1.0, w / max(tw, 1))
        cv2.putText(new, "OPEN", (x, y + (h + th) // 2), cv2.FONT_HERSHEY_DUPLEX, size, ink, max(2, round(size * 3)))
        return new
    return (photo * (1 - soft) + new * soft + 0.5).astype(np.uint8)
