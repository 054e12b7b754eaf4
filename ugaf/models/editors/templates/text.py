"""Set text into a photograph by layout: the words that the instruction names, in its box, readable.

Letters are drawn at four times their size and reduced. Where the ground is calm they stand on it with a thin outline;
where it is not, a rounded panel carries them, like a sign. *Replace* makes both pictures of the pair with one layout,
so that only the words differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from ugaf.imaging import boxes
from ugaf.imaging.blending import Layer
from ugaf.models.editors.interface import EditError
from ugaf.models.editors.templates.scene import Scene, luminance

HERSHEY = {
    "triplex": (cv2.FONT_HERSHEY_TRIPLEX, 1.0),
    "complex": (cv2.FONT_HERSHEY_COMPLEX, 0.8),
    "script": (cv2.FONT_HERSHEY_SCRIPT_COMPLEX, 0.8),
}
"""Hershey's vector fonts, with the stroke's weight; they have ASCII only.

"simplex" and "duplex", and every text beyond ASCII, are set in Pillow's own font, plain or bold."""

FONTS = ("simplex", "duplex", *HERSHEY)
CALM = 26.0
"""Standard deviation of luma under the letters up to which they need no panel."""


def add_text(scene: Scene, params: Mapping[str, Any]) -> Layer:
    """params: text, box, ink (a CSS colour name), font (one of FONTS)."""
    return _lay(scene, params, str(params.get("text") or ""), _layout(scene, params, [str(params.get("text") or "")]))


def replace_text(scene: Scene, params: Mapping[str, Any]) -> tuple[Layer, Layer]:
    """The layers of source (params `old`) and target (`text`); both have the same panel, font size and place."""
    old, new = str(params.get("old") or ""), str(params.get("text") or "")
    if old == new:
        raise EditError("BadParams", f"the old and the new text are the same: {new!r}")
    layout = _layout(scene, params, [old, new])
    return _lay(scene, params, old, layout), _lay(scene, params, new, layout)


def _layout(scene: Scene, params: Mapping[str, Any], texts: list[str]) -> tuple[boxes.Box, float, bool]:
    """(box inside the picture, letter height in pixels, whether a panel is needed), fit for the longest text."""
    for text in texts:
        if not text.strip() or not text.isprintable():
            raise EditError("BadParams", f"no text to set: {text!r}")
    given = params.get("box")
    if not isinstance(given, (list, tuple)) or len(given) != 4:
        raise EditError("BadParams", f"text needs `box` as [x1, y1, x2, y2], got {given!r}")
    box = boxes.clip(given, scene.picture.shape[1], scene.picture.shape[0])
    width, height = box[2] - box[0], box[3] - box[1]
    if width < 24 or height < 10:
        raise EditError(
            "BadParams", f"the text's box {list(given)} leaves {width} x {height} pixels: too little to read"
        )
    font = str(params.get("font") or "simplex")
    if font not in FONTS:
        raise EditError("BadParams", f"unknown font {font!r}; known: {', '.join(FONTS)}")
    widest = max(_stencil(text, font, 100).shape[1] for text in texts) / 100
    size = min(0.72 * height, 0.90 * width / widest)
    if size < 7:
        raise EditError("BadParams", f"the text {max(texts, key=len)!r} is too long for its box {list(given)}")
    luma = luminance(boxes.crop(scene.picture, box))
    ink = _luma(_ink(params))
    busy = float(luma.std()) > CALM or abs(float(luma.mean()) - ink) < 80
    return box, size, busy


def _lay(scene: Scene, params: Mapping[str, Any], text: str, layout: tuple[boxes.Box, float, bool]) -> Layer:
    box, size, panel = layout
    ink = np.array(_ink(params), np.float32)
    under = boxes.crop(scene.picture, box).astype(np.float32)
    height, width = under.shape[:2]
    letters = np.zeros((height, width), np.float32)
    stencil = _stencil(text, str(params.get("font") or "simplex"), size)
    y, x = (height - stencil.shape[0]) // 2, (width - stencil.shape[1]) // 2
    fitted = stencil[max(0, -y) : max(0, -y) + height, max(0, -x) : max(0, -x) + width]
    letters[max(0, y) : max(0, y) + fitted.shape[0], max(0, x) : max(0, x) + fitted.shape[1]] = fitted
    if panel:
        plate, cover = _panel(height, width, _luma(_ink(params)), under)
        colour = plate + (ink - plate) * letters[..., None]
        return Layer(box, np.clip(np.rint(colour), 0, 255).astype(np.uint8), cover)
    reach = max(1.0, size / 16)
    edge = cv2.dilate(letters, np.ones((2 * round(reach) + 1,) * 2, np.uint8))
    edge = np.clip(cv2.GaussianBlur(edge, (0, 0), max(0.8, reach * 0.7)), 0, 1)
    opposite = 20.0 if _luma(_ink(params)) > 110 else 240.0
    colour = (opposite * (1 - letters[..., None]) * 0.55 * edge[..., None] + ink * letters[..., None]) / np.maximum(
        0.55 * edge * (1 - letters) + letters, 1e-4
    )[..., None]
    matte = (0.55 * edge * (1 - letters) + letters).astype(np.float32)
    return Layer(box, np.clip(np.rint(colour), 0, 255).astype(np.uint8), matte)


def _panel(height: int, width: int, ink: float, under: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A sign, dark for light ink and light for dark: its colours, float32 (h, w, 3), and its cover, (h, w)."""
    tint = under.mean(axis=(0, 1)) - under.mean()
    base = np.array([34, 38, 44], np.float32) if ink > 110 else np.array([238, 234, 224], np.float32)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    radius = 0.16 * min(height, width)

    def inside(margin: float) -> np.ndarray:
        far_x = np.abs(x - (width - 1) / 2) - (width / 2 - margin - radius)
        far_y = np.abs(y - (height - 1) / 2) - (height / 2 - margin - radius)
        far = np.hypot(np.maximum(far_x, 0), np.maximum(far_y, 0)) + np.minimum(np.maximum(far_x, far_y), 0)
        return np.clip(radius - far + 0.5, 0, 1)

    line = max(1.0, 0.028 * min(height, width))
    rim = np.clip(inside(2.2 * line) - inside(3.2 * line), 0, 1)
    sheen = 1.05 - 0.10 * y / max(height, 1)
    colour = (base + 0.15 * tint) * sheen[..., None]
    contrast = 205.0 if ink > 110 else 70.0
    return colour + (contrast - colour) * (0.75 * rim)[..., None], inside(0.5).astype(np.float32)


def _ink(params: Mapping[str, Any]) -> tuple[int, int, int]:
    try:
        return ImageColor.getrgb(str(params.get("ink") or "white"))[:3]
    except ValueError as error:
        raise EditError("BadParams", f"unknown ink colour {params.get('ink')!r}") from error


def _luma(rgb: tuple[int, int, int]) -> float:
    return float(np.dot(rgb, (0.299, 0.587, 0.114)))


def _stencil(text: str, font: str, size: float) -> np.ndarray:
    """The letters' coverage, float32 0..1, cropped to them. size: height of a line, in pixels."""
    big = size * 4
    if font in HERSHEY and text.isascii():
        face, weight = HERSHEY[font]
        (_, cap), _ = cv2.getTextSize("Hg", face, 1.0, 1)
        scale = big / (1.35 * cap)
        thick = max(1, round(scale * 1.6 * weight))
        (wide, tall), below = cv2.getTextSize(text, face, scale, thick)
        canvas = np.zeros((tall + below + 8 * thick, wide + 8 * thick), np.uint8)
        cv2.putText(canvas, text, (4 * thick, tall + 2 * thick), face, scale, 255, thick, cv2.LINE_AA)
    else:
        letters = ImageFont.load_default(big)
        stroke = round(big / 36) if font == "duplex" else 0
        left, top, right, bottom = letters.getbbox(text, stroke_width=stroke)
        image = Image.new("L", (max(1, int(right - left) + 8), max(1, int(bottom - top) + 8)))
        ImageDraw.Draw(image).text((4 - left, 4 - top), text, fill=255, font=letters, stroke_width=stroke)
        canvas = np.asarray(image)
    found = boxes.of_mask(canvas > 0)
    if found is None:
        raise EditError("BadParams", f"the font {font!r} has no letters for {text!r}")
    canvas = boxes.crop(canvas, found)
    small = (max(1, round(canvas.shape[1] / 4)), max(1, round(canvas.shape[0] / 4)))
    return cv2.resize(canvas, small, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
