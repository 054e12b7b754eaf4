"""Pictures for measuring deduplication: distinct photograph-like scenes, hard negatives, and what is done to copies.

A scene is a dead-leaves picture: shapes of power-law sizes that cover each other, each with a colour and a texture of
its own, under uneven light. Such pictures have the edges, occlusions and 1/f spectrum of photographs (Lee, Mumford and
Huang, "Occlusion models for natural images", 2001). No two seeds share a shape. Hard negatives are distinct pictures of
one kind that look alike when little of them is left: skies, portraits on white, pages of text, nights, gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product

import cv2
import numpy as np

HEIGHT, WIDTH = 384, 512
Picture = np.ndarray
"""RGB uint8 (height, width, 3)."""


def scene(seed: int) -> Picture:
    """A dead-leaves scene; width and height vary with the seed."""
    rng = np.random.default_rng([1, seed])
    height, width = ((HEIGHT, WIDTH), (WIDTH, HEIGHT), (HEIGHT, HEIGHT))[seed % 3]
    canvas = np.empty((height, width, 3), np.float32)
    canvas[:] = rng.uniform(30, 225, 3)
    sizes = np.sort(_power_law(rng, 90, 10, 260))[::-1]
    for size in sizes:
        mask = np.zeros((height, width), np.uint8)
        _shape(rng, mask, size)
        inside = mask > 0
        colour = rng.uniform(10, 245, 3)
        canvas[inside] = colour + _texture(rng, height, width, rng.uniform(3, 30))[inside][:, None]
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    light = 1 + 0.35 * (rng.uniform(-1, 1) * (x - 0.5) + rng.uniform(-1, 1) * (y - 0.5))
    return _picture(canvas * light[..., None] + rng.normal(0, 3, canvas.shape))


def photograph_crops() -> list[Picture]:
    """Crops of the photographs that come with scikit-image, none overlapping another: 36 and more distinct pictures."""
    from skimage import data

    names = ("astronaut", "chelsea", "coffee", "rocket", "camera", "coins", "immunohistochemistry")
    crops = []
    for name in names:
        photo = np.asarray(getattr(data, name)())
        photo = np.repeat(photo[..., None], 3, axis=2) if photo.ndim == 2 else photo[..., :3]
        rows, columns = (max(1, extent // 190) for extent in photo.shape[:2])
        height, width = photo.shape[0] // rows, photo.shape[1] // columns
        crops += [
            np.ascontiguousarray(photo[r * height : (r + 1) * height, c * width : (c + 1) * width])
            for r, c in product(range(rows), range(columns))
        ]
    return crops


def sky(seed: int) -> Picture:
    """Blue getting lighter towards a flat horizon, with faint clouds of its own."""
    rng = np.random.default_rng([2, seed])
    y = np.linspace(0, 1, HEIGHT)[:, None, None]
    colour = np.array([70, 120, 200]) + rng.normal(0, 12, 3) + y * (np.array([120, 90, 45]) + rng.normal(0, 8, 3))
    clouds = _texture(rng, HEIGHT, WIDTH, rng.uniform(2, 8), power=1.6)[..., None]
    return _picture(colour + clouds + rng.normal(0, 1.5, (HEIGHT, WIDTH, 3)))


def portrait(seed: int) -> Picture:
    """Head and shoulders in the middle of a white background; sizes, places and colours of a person's own."""
    rng = np.random.default_rng([3, seed])
    canvas = np.full((HEIGHT, HEIGHT, 3), 245, np.float32)

    def oval(centre: tuple[float, float], axes: tuple[float, float], colour: np.ndarray) -> None:
        middle, half = (np.asarray(values) * HEIGHT for values in (centre, axes))
        place = (round(middle[0]), round(middle[1])), (round(half[0]), round(half[1]))
        cv2.ellipse(canvas, *place, float(rng.normal(0, 5)), 0, 360, colour.tolist(), -1, cv2.LINE_AA)

    middle = 0.5 + rng.normal(0, 0.015)
    head = 0.4 + rng.normal(0, 0.02)
    skin = np.array([215, 170, 140]) * rng.uniform(0.45, 1.1)
    hair = rng.uniform(10, 150) * np.array([1, rng.uniform(0.7, 1), rng.uniform(0.4, 1)])
    oval((middle, 1.0), (rng.uniform(0.28, 0.4), rng.uniform(0.28, 0.36)), rng.uniform(10, 230, 3))
    oval((middle, head - 0.04), (rng.uniform(0.15, 0.23), rng.uniform(0.2, 0.3)), hair)
    oval((middle, head), (rng.uniform(0.12, 0.15), rng.uniform(0.16, 0.2)), skin)
    for side in (-1, 1):
        oval((middle + side * 0.055, head - 0.03), (0.018, 0.01), np.array([40.0, 30, 30]))
    oval((middle, head + 0.09), (rng.uniform(0.02, 0.05), 0.01), np.array([150.0, 60, 60]))
    return _picture(canvas + rng.normal(0, 1.5, canvas.shape))


def page(seed: int) -> Picture:
    """A page of text of one layout: the same margins and line distance, words and paragraphs of its own."""
    rng = np.random.default_rng([4, seed])
    canvas = np.full((640, 480, 3), 250, np.uint8)
    y, x = 70, 60
    while y < 580:
        ends = rng.random() < 0.18
        right = rng.uniform(120, 400) if ends else 415
        while x < right:
            length = int(rng.integers(8, 48))
            cv2.rectangle(canvas, (x, y), (min(x + length, 420), y + 6), (40, 40, 40), -1)
            x += length + 6
        y, x = y + 14, 84 if ends else 60
    return canvas


def night(seed: int) -> Picture:
    """Nearly black, with some lamps and sensor noise."""
    rng = np.random.default_rng([5, seed])
    canvas = np.full((HEIGHT, WIDTH, 3), 6, np.float32)
    for _ in range(int(rng.integers(2, 7))):
        glow = np.zeros((HEIGHT, WIDTH), np.float32)
        cv2.circle(glow, (int(rng.integers(WIDTH)), int(rng.integers(HEIGHT))), int(rng.integers(2, 7)), 1.0, -1)
        canvas += (cv2.GaussianBlur(glow, (0, 0), rng.uniform(2, 9)) * rng.uniform(150, 700))[..., None]
    return _picture(canvas + rng.normal(0, 3, canvas.shape))


def gradient(seed: int) -> Picture:
    """One colour fading into another, top to bottom, without any noise: a synthetic background."""
    rng = np.random.default_rng([6, seed])
    first, second = rng.uniform(0, 120, 3), rng.uniform(130, 255, 3)
    ramp = np.linspace(0, 1, HEIGHT)[:, None, None]
    return _picture(np.broadcast_to(first + (second - first) * ramp, (HEIGHT, WIDTH, 3)))


def plain(seed: int) -> Picture:
    """One colour and a little noise: a wall, a page without anything."""
    rng = np.random.default_rng([7, seed])
    return _picture(rng.uniform(20, 235, 3) + rng.normal(0, 2, (HEIGHT, WIDTH, 3)))


HARD: Mapping[str, Callable[[int], Picture]] = {
    "sky": sky,
    "portrait": portrait,
    "page": page,
    "night": night,
    "gradient": gradient,
    "plain": plain,
}


def crop(picture: Picture, rng: np.random.Generator) -> Picture:
    """90 % of the width and 90 % of the height, at a random place (81 % of the area)."""
    return _cut(picture, rng, 0.9, 0.9)


def crop_area(picture: Picture, rng: np.random.Generator) -> Picture:
    """90 % of the area at a random place, by a random share of each axis."""
    share = 0.9 ** rng.uniform(0, 1)
    return _cut(picture, rng, share, 0.9 / share)


def resize(picture: Picture, rng: np.random.Generator) -> Picture:
    """To 25 % to 150 % of its size, not at quite the same aspect ratio."""
    factor = float(np.exp(rng.uniform(np.log(0.25), np.log(1.5))))
    size = (
        max(8, round(picture.shape[1] * factor)),
        max(8, round(picture.shape[0] * factor * rng.uniform(0.97, 1.03))),
    )
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)


def jpeg(picture: Picture, rng: np.random.Generator) -> Picture:  # noqa: ARG001
    """Encoded as JPEG of quality 50, and decoded."""
    data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 50])[1]
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def colour(picture: Picture, rng: np.random.Generator) -> Picture:
    """Brightness, contrast, gamma, hue and saturation, all shifted a little at random."""
    hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + rng.uniform(-10, 10)) % 180
    hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(0.6, 1.4), 0, 255)
    shifted = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB) / 255.0
    shifted = shifted ** rng.uniform(0.75, 1.33)
    return _picture(((shifted - 0.5) * rng.uniform(0.75, 1.25) + 0.5) * 255 + rng.uniform(-25, 25))


def text(picture: Picture, rng: np.random.Generator) -> Picture:
    """A line of text over the picture."""
    out = picture.copy()
    words = "".join(rng.choice(list("ABCDEFGHIKLMNOPRSTUW "), 14))
    scale = picture.shape[1] / 300
    place = (int(rng.uniform(0, 0.15) * picture.shape[1]), int(rng.uniform(0.15, 0.95) * picture.shape[0]))
    tone = (255, 255, 255) if rng.random() < 0.5 else (0, 0, 0)
    cv2.putText(out, words, place, cv2.FONT_HERSHEY_SIMPLEX, scale, tone, max(1, round(2 * scale)), cv2.LINE_AA)
    return out


def flip(picture: Picture, rng: np.random.Generator) -> Picture:  # noqa: ARG001
    """Left becomes right."""
    return np.ascontiguousarray(picture[:, ::-1])


TRANSFORMS: Mapping[str, Callable[[Picture, np.random.Generator], Picture]] = {
    "crop": crop,
    "crop_area": crop_area,
    "resize": resize,
    "jpeg": jpeg,
    "colour": colour,
    "text": text,
    "flip": flip,
}


def _cut(picture: Picture, rng: np.random.Generator, down: float, across: float) -> Picture:
    height, width = round(picture.shape[0] * down), round(picture.shape[1] * across)
    y = int(rng.integers(picture.shape[0] - height + 1))
    x = int(rng.integers(picture.shape[1] - width + 1))
    return np.ascontiguousarray(picture[y : y + height, x : x + width])


def _picture(values: np.ndarray) -> Picture:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _power_law(rng: np.random.Generator, count: int, low: float, high: float) -> np.ndarray:
    """Sizes with density 1 / r**3, by inversion of their distribution."""
    share = rng.random(count)
    return (low**-2 - share * (low**-2 - high**-2)) ** -0.5


def _shape(rng: np.random.Generator, mask: np.ndarray, size: float) -> None:
    centre = (int(rng.integers(mask.shape[1])), int(rng.integers(mask.shape[0])))
    if rng.random() < 0.5:
        axes = (max(2, round(size)), max(2, round(size * rng.uniform(0.3, 1))))
        cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
        return
    angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 8))))
    reach = size * rng.uniform(0.5, 1.2, len(angles))
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) * reach[:, None] + centre
    cv2.fillPoly(mask, [corners.astype(np.int32)], 1)


def _texture(rng: np.random.Generator, height: int, width: int, strength: float, power: float = 1.0) -> np.ndarray:
    """Noise whose amplitude falls as 1 / frequency ** power: float32 (height, width), standard deviation `strength`."""
    fy, fx = np.fft.fftfreq(HEIGHT // 4)[:, None], np.fft.rfftfreq(WIDTH // 4)[None]
    radius = np.hypot(fy, fx)
    radius[0, 0] = np.inf
    spectrum = np.exp(2j * np.pi * rng.random(radius.shape)) / radius**power
    noise = np.fft.irfft2(spectrum, s=(HEIGHT // 4, WIDTH // 4))
    noise = cv2.resize(noise.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return noise * np.float32(strength / noise.std())
