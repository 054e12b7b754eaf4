"""Remove an object, and put another in its place.

`remove` fills the object's place, with its halo and shadow, by patch-based completion (`ugaf.imaging.inpaint`). Its
inversion is the task *add*: the photograph is the target. `replace` sets an object of another photograph on the filled
picture, scaled to the place, standing on the same ground, lit like its new surroundings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from ugaf.imaging import blending, boxes, inpaint
from ugaf.imaging.blending import Layer
from ugaf.models.editors.interface import EditError
from ugaf.models.editors.templates import oklab
from ugaf.models.editors.templates.scene import Cutout, Scene, mask_of, smoothstep


def remove(scene: Scene, params: Mapping[str, Any]) -> Layer:
    """params: object."""
    hole, matte = _hole(scene, params)
    window = boxes.of_mask(matte > 0)
    assert window is not None
    filled = fill(scene, hole, params)
    return Layer(window, boxes.crop(filled, window), boxes.crop(matte, window))


def fill(scene: Scene, hole: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
    """The whole picture with the hole filled. Raises EditError HoleTooLarge."""
    if hole.mean() > scene.largest_fill:
        most = f"{scene.largest_fill:.0%}"
        raise EditError(
            "HoleTooLarge", f"removing the object would fill {hole.mean():.0%} of the picture (most: {most})"
        )
    try:
        return inpaint.fill(scene.picture, hole, _others(scene, hole, params), int(scene.rng.integers(2**31)))
    except ValueError as error:
        raise EditError("HoleTooLarge", str(error)) from error


def _hole(scene: Scene, params: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The region to fill (bool) and its matte, which is soft over the outermost pixels; both picture-sized."""
    mask = mask_of(scene.picture, scene.object(params))
    size = float(np.sqrt(mask.sum()))
    reach = max(3.0, 0.03 * size)
    others = _others(scene, mask, params)
    core = blending.dilate(mask | _shadow(scene.picture, mask, others), reach)
    seam = max(2.0, 0.008 * size)
    distance = cv2.distanceTransform((~core).astype(np.uint8), cv2.DIST_L2, 5)
    matte = np.clip(1 - distance / (seam + 1), 0, 1).astype(np.float32)
    return matte > 0, matte


def _shadow(picture: np.ndarray, mask: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The shadow that touches the object's foot: ground of the same chromaticity, but with 25..75 % of its light.

    Nothing of the other objects, and nothing at all where what is found is too large to be a shadow.
    """
    height, width = mask.shape
    result = np.zeros_like(mask)
    box = boxes.of_mask(mask)
    assert box is not None
    tall, wide = box[3] - box[1], box[2] - box[0]
    top = box[3] - 0.22 * tall
    window = boxes.clip((box[0] - 0.3 * wide, top, box[2] + 0.3 * wide, box[3] + 0.2 * tall), width, height)
    inside, taken = boxes.crop(mask, window), boxes.crop(others, window)
    size = float(np.sqrt(mask.sum()))
    near = blending.dilate(inside, 0.2 * size) & ~inside & ~taken
    if near.sum() < 100:
        return result
    light = oklab.linear(cv2.GaussianBlur(boxes.crop(picture, window), (0, 0), max(1.0, 0.01 * size)))
    total = light.sum(axis=-1)
    ground = np.median(light[near & (total >= np.percentile(total[near], 60))], axis=0)
    if ground.sum() < 1e-4:  # on black no shadow is seen
        return result
    share = total / ground.sum()
    cast = np.abs(light / np.maximum(total, 1e-4)[..., None] - ground / ground.sum()).max(axis=-1)
    dark = near & (share > 0.2) & (share < 0.75) & (cast < 0.035)
    labels = cv2.connectedComponents((dark | inside).astype(np.uint8))[1]
    found = np.isin(labels, np.unique(labels[inside])) & dark
    if found.sum() > 0.4 * near.sum() or found.sum() > 0.2 * mask.sum():
        return result
    boxes.crop(result, window)[:] = found
    return result


def _others(scene: Scene, hole: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
    """The other objects, which must not be copied into the hole (but for those that the hole lies on)."""
    result = np.zeros_like(hole)
    chosen = scene.object(params)
    for other in scene.objects:
        if other is chosen or other.mask is None or other.mask.mean() < 0.2:
            continue
        whole = blending.place(other.mask, other.box, scene.whole)
        if whole.mean() < 0.25 and (whole & hole).sum() < 0.3 * min(whole.sum(), hole.sum()):
            result |= whole
    return result


def replace(scene: Scene, params: Mapping[str, Any]) -> Layer:
    """params: object, donor_object (its position among the donor photograph's objects)."""
    donor = scene.donor_cutout(params)
    _check_whole(donor, scene)
    hole, matte = _hole(scene, params)
    filled = fill(scene, hole, params)
    target = boxes.of_mask(mask_of(scene.picture, scene.object(params)))
    assert target is not None
    pixels, cover, window = _fit(donor, target, scene.whole)
    if cover.sum() < 64:
        raise EditError("NoDonor", "nothing of the donor's object is left inside the picture")
    lit = match_light(pixels, cover, boxes.crop(filled, window), boxes.crop(scene.picture, target))
    bottom = boxes.union([window, boxes.of_mask(matte > 0) or window])
    ground = _contact_shadow(cover, window, bottom)
    below = boxes.crop(filled, bottom) * (1 - ground[..., None])
    above = blending.place(cover, window, bottom)[..., None]
    canvas = np.zeros((*above.shape[:2], 3), np.float32)
    x, y = window[0] - bottom[0], window[1] - bottom[1]
    canvas[y : y + lit.shape[0], x : x + lit.shape[1]] = lit
    mixed = np.clip(np.rint(below * (1 - above) + canvas * above), 0, 255).astype(np.uint8)
    changed = np.maximum(boxes.crop(matte, bottom), np.maximum(above[..., 0], (ground > 0.004).astype(np.float32)))
    return Layer(bottom, mixed, changed)


def _check_whole(donor: Cutout, scene: Scene) -> None:
    """A donor that its own photograph's border cuts off would end in a straight line in mid-air."""
    assert scene.donor is not None
    height, width = scene.donor.shape[:2]
    x1, y1, x2, y2 = donor.window
    mask = donor.mask
    cut = {
        "left": x1 == 0 and mask[:, 0].sum() > 0.1 * mask.any(axis=1).sum(),
        "top": y1 == 0 and mask[0].sum() > 0.1 * mask.any(axis=0).sum(),
        "right": x2 == width and mask[:, -1].sum() > 0.1 * mask.any(axis=1).sum(),
        "bottom": y2 == height and mask[-1].sum() > 0.1 * mask.any(axis=0).sum(),
    }
    sides = [side for side, is_cut in cut.items() if is_cut]
    if sides:
        raise EditError("NoDonor", f"the donor's object is cut off by the {' and '.join(sides)} of its photograph")


def _fit(donor: Cutout, target: boxes.Box, whole: boxes.Box) -> tuple[np.ndarray, np.ndarray, boxes.Box]:
    """The donor's object scaled over the target's box, standing on its bottom: pixels, matte and window, clipped."""
    own = boxes.of_mask(donor.mask)
    assert own is not None
    scale_x, scale_y = (target[2] - target[0]) / (own[2] - own[0]), (target[3] - target[1]) / (own[3] - own[1])
    scale = float(np.clip(np.sqrt(scale_x * scale_y), max(scale_x, scale_y) * 0.6, min(scale_x, scale_y) * 1.7))
    colours = clean_edge(donor)
    size = (max(2, round(donor.matte.shape[1] * scale)), max(2, round(donor.matte.shape[0] * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    pixels = np.clip(cv2.resize(colours, size, interpolation=method), 0, 255)
    matte = np.clip(cv2.resize(donor.matte, size, interpolation=method), 0, 1)
    x = round((target[0] + target[2]) / 2 - (own[0] + own[2]) / 2 * scale)
    y = round(target[3] - (own[3]) * scale)
    window = boxes.clip((x, y, x + size[0], y + size[1]), whole[2], whole[3])
    part = (slice(window[1] - y, window[3] - y), slice(window[0] - x, window[2] - x))
    return pixels[part], matte[part], window


def clean_edge(cut: Cutout) -> np.ndarray:
    """The window's colours with the object's own continued over its edge, so that no old background shows: float32."""
    sure = blending.erode(cut.mask, max(1.5, min(4.0, 0.012 * cut.size))) & (cut.matte > 0.98)
    if sure.sum() < 0.3 * cut.mask.sum():
        sure = cut.mask
    return blending.spread(cut.pixels.astype(np.float32), sure, max(1.0, 0.01 * cut.size))


def match_light(pixels: np.ndarray, cover: np.ndarray, around: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The object lit like its new place: lightness moved towards the surroundings', contrast bounded, a slight cast.

    pixels: float32 (h, w, 3), 0..255. cover: its matte. around: the picture without the object, uint8 (h, w, 3).
    before: what stood there, uint8.
    """
    lab = cv2.cvtColor((pixels / 255).astype(np.float32), cv2.COLOR_RGB2LAB)
    place = cv2.cvtColor(around, cv2.COLOR_RGB2LAB).astype(np.float32) * [100 / 255, 1, 1] - [0, 128, 128]
    old = cv2.cvtColor(before, cv2.COLOR_RGB2LAB).astype(np.float32) * [100 / 255, 1, 1] - [0, 128, 128]
    inside = cover > 0.5
    own_mean, own_std = lab[inside].mean(axis=0), lab[inside].std(axis=0)
    scene_mean = 0.5 * place.reshape(-1, 3).mean(axis=0) + 0.5 * old.reshape(-1, 3).mean(axis=0)
    scene_std = old[..., 0].std()
    gain = float(np.clip((0.5 * own_std[0] + 0.5 * scene_std) / max(own_std[0], 1), 0.75, 1.2))
    move = np.clip(0.4 * (scene_mean[0] - own_mean[0]), -16, 16)
    lab[..., 0] = np.clip(own_mean[0] + (lab[..., 0] - own_mean[0]) * gain + move, 0, 100)
    cast = np.clip(0.18 * (scene_mean[1:] - own_mean[1:]), -5, 5)
    lab[..., 1:] += cast.astype(np.float32)
    return cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_LAB2RGB) * 255


def _contact_shadow(cover: np.ndarray, window: boxes.Box, area: boxes.Box) -> np.ndarray:
    """How much darker (0..0.45) the ground gets under the object: a soft ellipse around its foot, sized like `area`."""
    solid = cover > 0.5
    rows = np.flatnonzero(solid.any(axis=1))
    shade = np.zeros((area[3] - area[1], area[2] - area[0]), np.float32)
    if not len(rows):
        return shade
    foot = rows[-1]
    tall = foot - rows[0] + 1
    columns = np.flatnonzero(solid[max(0, foot - max(2, tall // 12)) : foot + 1].any(axis=0))
    centre_x = window[0] - area[0] + (columns[0] + columns[-1]) / 2
    centre_y = window[1] - area[1] + foot
    half = max(4.0, (columns[-1] - columns[0] + 1) / 2)
    y, x = np.mgrid[0 : shade.shape[0], 0 : shade.shape[1]].astype(np.float32)
    far = np.hypot((x - centre_x) / (half * 1.15), (y - centre_y) / max(3.0, 0.16 * half + 0.02 * tall))
    return (0.45 * (1 - smoothstep(0.3, 1.0, far))).astype(np.float32)
