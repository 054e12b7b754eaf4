"""Change everything but an object: the rest blurred, greyed, or replaced by a studio or a sky.

The object keeps its pixels, but for the seam, where its own colour is mixed with the new background.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np

from ugaf.base.errors import nearest
from ugaf.imaging import blending, boxes
from ugaf.imaging.blending import Layer
from ugaf.models.editors.interface import EditError
from ugaf.models.editors.templates import oklab
from ugaf.models.editors.templates.scene import Scene, clouds, luminance, mask_of, ramp, smoothstep
from ugaf.models.editors.templates.textures import star_field


def background(scene: Scene, params: Mapping[str, Any]) -> Layer:
    """params: object (which stays), background (one of BACKGROUNDS)."""
    name = params.get("background")
    if name not in BACKGROUNDS:
        raise EditError("BadParams", f"unknown background {name!r}{nearest(str(name), BACKGROUNDS)}")
    mask = mask_of(scene.picture, scene.object(params))
    matte = blending.matte_of(scene.picture, mask)
    behind = np.clip(BACKGROUNDS[name](scene.picture, mask, scene.rng), 0, 255)
    rest = 1 - blending.quantise(matte)
    # Where the edge is mixed, mix the object's own colour with the new background: the old one would be a halo.
    own = _own_colours(scene.picture, mask, matte)
    mixed = own * matte[..., None] + behind * (1 - matte[..., None])
    return Layer(scene.whole, np.clip(np.rint(mixed), 0, 255).astype(np.uint8), (rest > 0).astype(np.float32))


def _own_colours(picture: np.ndarray, mask: np.ndarray, matte: np.ndarray) -> np.ndarray:
    size = float(np.sqrt(mask.sum()))
    box = boxes.of_mask(matte > 0)
    assert box is not None
    window = boxes.grow(box, 0.02, picture.shape[1], picture.shape[0])
    inside = boxes.crop(mask, window)
    sure = blending.erode(inside, max(1.5, min(4.0, 0.01 * size))) & (boxes.crop(matte, window) > 0.98)
    if not sure.any():
        sure = inside
    result = picture.astype(np.float32)
    part = boxes.crop(picture, window).astype(np.float32)
    boxes.crop(result, window)[:] = blending.spread(part, sure, max(1.0, 0.006 * size))
    return result


def _blurred(picture: np.ndarray, mask: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """A wide aperture: a disc blur of the background alone, in linear light, so that lights become discs."""
    height, width = mask.shape
    scale = min(1.0, 700 / max(height, width))
    size = (round(width * scale), round(height * scale))
    light = cv2.resize(oklab.linear(picture), size, interpolation=cv2.INTER_AREA)
    known = 1 - cv2.resize(blending.dilate(mask, 3).astype(np.float32), size, interpolation=cv2.INTER_AREA)
    light = light * (1 + 2.0 * smoothstep(0.7, 1.0, light.min(axis=-1)))[..., None]
    radius = 0.022 * max(size)
    side = 2 * int(np.ceil(radius)) + 1
    y, x = np.mgrid[0:side, 0:side] - (side - 1) / 2
    kernel = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1).astype(np.float32)
    kernel /= kernel.sum()
    weight = cv2.filter2D(known, -1, kernel, borderType=cv2.BORDER_REFLECT)
    total = cv2.filter2D(light * known[..., None], -1, kernel, borderType=cv2.BORDER_REFLECT)
    mean = total / np.maximum(weight, 1e-3)[..., None]
    mean = blending.spread(mean, weight > 0.05, radius)
    return oklab.encode(cv2.resize(mean, (width, height), interpolation=cv2.INTER_CUBIC))


def _greyscale(picture: np.ndarray, _: np.ndarray, __: np.random.Generator) -> np.ndarray:
    return np.repeat(luminance(picture)[..., None], 3, axis=2)


def _studio_white(_: np.ndarray, mask: np.ndarray, __: np.random.Generator) -> np.ndarray:
    height, width = mask.shape
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    base = np.repeat(249 - 7 * smoothstep(0.55, 1.0, y), width, axis=1)
    tint = np.array([1.0, 1.0, 1.005], np.float32)
    return base[..., None] * tint * (1 - 0.34 * _cast(mask))[..., None]


def _studio_gradient(picture: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A paper roll lit from behind the object; its hue is opposite to the object's."""
    height, width = mask.shape
    lab = oklab.from_rgb(picture[::4, ::4])[mask[::4, ::4]]
    mean = lab.mean(axis=0) if len(lab) else np.array([0.5, 0.0, 0.0])
    # A grey object leaves the hue open: blue, as studios have it.
    hue = np.arctan2(mean[2], mean[1]) + np.pi if np.hypot(mean[1], mean[2]) > 0.03 else np.radians(250)
    angle = hue + rng.uniform(-0.4, 0.4)
    box = boxes.of_mask(mask)
    assert box is not None
    x = (np.arange(width, dtype=np.float32)[None] - (box[0] + box[2]) / 2) / max(height, width)
    y = (np.arange(height, dtype=np.float32)[:, None] - (0.4 * box[3] + 0.6 * box[1])) / max(height, width)
    glow = np.exp(-(x**2 + 1.2 * y**2) / 0.16)
    lightness = 0.36 + 0.42 * glow
    chroma = 0.065
    lab = np.dstack([lightness, np.full_like(glow, chroma * np.cos(angle)), np.full_like(glow, chroma * np.sin(angle))])
    grain = rng.standard_normal((height, width)).astype(np.float32)[..., None] * 1.2
    return oklab.to_rgb(lab.astype(np.float32)) * (1 - 0.4 * _cast(mask))[..., None] + grain


def _cast(mask: np.ndarray) -> np.ndarray:
    """The object's shadow on the ground it stands on, 0..1; none for an object that the picture's border cuts off."""
    height, width = mask.shape
    box = boxes.of_mask(mask)
    assert box is not None
    if box[3] >= height - 2:
        return np.zeros(mask.shape, np.float32)
    tall, wide = box[3] - box[1], box[2] - box[0]
    scale = 160 / max(height, width)
    low = cv2.resize(mask.astype(np.float32), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    foot = box[3] * scale
    # The lower third of the silhouette, pressed flat on the ground.
    flat = np.array([[1, 0, 0], [0, 0.22, 0.80 * foot]], np.float32)
    low[: int((box[3] - 0.45 * tall) * scale)] = 0
    pressed = cv2.warpAffine(low, flat, low.shape[1::-1])
    near = cv2.GaussianBlur(pressed, (0, 0), max(0.8, 0.018 * wide * scale))
    far = cv2.GaussianBlur(pressed, (0, 0), max(1.5, 0.07 * wide * scale))
    return np.clip(cv2.resize(0.55 * near + 0.6 * far, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)


def _horizon(mask: np.ndarray) -> float:
    """Where the ground of a replaced landscape meets the sky, 0..1 of the height: behind the object's lower part."""
    box = boxes.of_mask(mask)
    assert box is not None
    return float(np.clip((box[1] + 0.72 * (box[3] - box[1])) / mask.shape[0], 0.55, 0.86))


def _sunset(_: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = mask.shape
    line = _horizon(mask)
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None] / line
    x = np.linspace(0, 1, width, dtype=np.float32)[None]
    sky = ramp(np.repeat(y, width, axis=1), [
        (0, (52, 58, 112)), (0.35, (126, 84, 134)), (0.62, (222, 116, 104)),
        (0.84, (250, 168, 92)), (1, (255, 214, 138)),
    ])  # fmt: skip
    sun_x = 0.2 + 0.6 * rng.random()
    aspect = width / height
    far = np.hypot((x - sun_x) * aspect, (y - 0.9) * line)
    sky += (np.exp(-((far / 0.30) ** 2)) * 0.55)[..., None] * np.array([120, 80, 30], np.float32)
    bank = clouds((height, width), height / 5, rng, 6, stretch=3.5)
    cover = smoothstep(0.1, 1.7, bank - 0.35 * smoothstep(0.75, 1.0, y)) * smoothstep(1.0, 0.8, y)
    lit_from_below = np.clip(bank - np.roll(bank, max(2, height // 60), axis=0), -1, 1)
    shade = np.array([150, 92, 112], np.float32) + (0.5 + 0.9 * lit_from_below)[..., None] * np.array([105, 60, 10])
    sky = sky + (shade - sky) * (0.75 * cover)[..., None]
    disc = smoothstep(0.052, 0.045, far)[..., None]
    sky = sky + (np.array([255, 244, 206], np.float32) - sky) * disc
    return _ground(sky, line, x, height, rng, (58, 38, 44), (24, 18, 26))


def _night_sky(_: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = mask.shape
    line = _horizon(mask)
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None] / line
    x = np.linspace(0, 1, width, dtype=np.float32)[None]
    sky = ramp(
        np.repeat(y, width, axis=1), [(0, (6, 9, 28)), (0.55, (14, 24, 62)), (0.9, (36, 58, 104)), (1, (66, 88, 128))]
    )
    tilt = rng.uniform(-0.9, 0.9)
    across = (y - 0.45 - tilt * (x - 0.5)) + 0.05 * clouds((height, width), height / 4, rng, 4)
    dust = clouds((height, width), height / 6, rng, 6)
    band = np.exp(-((across / 0.2) ** 2)) * np.clip(0.6 + 0.35 * dust, 0, 1.6) * smoothstep(1.0, 0.7, y)
    sky += band[..., None] * np.array([54, 52, 74], np.float32)
    stars = star_field((height, width), rng) * (0.55 + 0.6 * np.clip(band, 0, 1)) * smoothstep(1.02, 0.75, y)
    sky = sky + (np.array([250, 250, 255], np.float32) - sky) * np.clip(stars, 0, 1)[..., None]
    return _ground(sky, line, x, height, rng, (18, 26, 44), (8, 11, 20))


def _ground(
    sky: np.ndarray,
    line: float,
    x: np.ndarray,
    height: int,
    rng: np.random.Generator,
    far: tuple[int, int, int],
    near: tuple[int, int, int],
) -> np.ndarray:
    """Two ranges of dark hills and the ground in front of them, under the sky."""
    rows = np.arange(height, dtype=np.float32)[:, None]
    width = x.shape[1]
    result = sky
    for base, rise, tone in ((line - 0.02, 0.05, far), (line + 0.03, 0.03, near)):
        profile = clouds((8, width), width / 3, rng, 6)[4]
        edge = (base - rise * 0.5 * profile[None]) * height
        below = np.clip(rows - edge + 0.5, 0, 1)[..., None]
        depth = np.clip((rows - edge) / (0.4 * height), 0, 1)[..., None]
        colour = np.array(tone, np.float32) * (1 - 0.35 * depth)
        result = result + (colour - result) * below
    texture = clouds(sky.shape[:2], max(4.0, height / 60), rng, 4, stretch=3.0)
    return result + texture[..., None] * (rows > (line + 0.05) * height)[..., None] * 2.5


BACKGROUNDS: dict[str, Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]] = {
    "blurred": _blurred,
    "greyscale": _greyscale,
    "studio white": _studio_white,
    "studio gradient": _studio_gradient,
    "sunset sky": _sunset,
    "starry night": _night_sky,
}
