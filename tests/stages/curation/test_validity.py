"""Photographs pass; collages, codes, frames and tilted canvases that are made here are caught and measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ugaf.stages.curation.validity import Validity

from ugaf.imaging import images
from ugaf.measures import composition
from ugaf.stage import Failure, Row

WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def measured(rgb: np.ndarray, quality: int = 88) -> Mapping[str, Any]:
    (found,) = Validity("curation.validity")([Row("0" * 32, {"image": images.encode(rgb, "jpeg", quality)})])
    assert isinstance(found, Mapping), found
    assert list(found) == Validity.schema.names
    return found


def rejected(found: Mapping[str, Any]) -> set[str]:
    return {name for name, rule in Validity.keep.items() if found[name] > rule["max"]}


def filled(rgb: np.ndarray, width: int, height: int) -> np.ndarray:
    """The middle of the picture, scaled to cover width x height."""
    scale = max(width / rgb.shape[1], height / rgb.shape[0])
    size = max(width, round(rgb.shape[1] * scale)), max(height, round(rgb.shape[0] * scale))
    large = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    x, y = (size[0] - width) // 2, (size[1] - height) // 2
    return large[y : y + height, x : x + width]


def collage(pictures: list[np.ndarray], columns: int, gutter: int, colour: tuple[int, int, int]) -> np.ndarray:
    """Pictures in a grid, all of 480 x 400, with a gutter between them and round about."""
    rows = -(-len(pictures) // columns)
    sheet = np.empty((rows * (400 + gutter) + gutter, columns * (480 + gutter) + gutter, 3), np.uint8)
    sheet[:] = colour
    for number, picture in enumerate(pictures):
        y, x = (
            gutter + place * (side + gutter) for place, side in zip(divmod(number, columns), (400, 480), strict=True)
        )
        sheet[y : y + 400, x : x + 480] = filled(picture, 480, 400)
    return sheet


def pasted(photo: np.ndarray, code: np.ndarray, side: int, angle: float) -> tuple[np.ndarray, float]:
    """The photograph with a code in the middle, and the share of it that the code takes."""
    height, width = photo.shape[:2]
    high, wide = side, round(side * code.shape[1] / code.shape[0])
    code = cv2.resize(code, (wide * 4, high * 4), interpolation=cv2.INTER_NEAREST)
    turn = cv2.getRotationMatrix2D((wide * 2, high * 2), angle, 0.25)
    turn[:, 2] += (width / 2 - wide * 2, height / 2 - high * 2)
    options: dict[str, Any] = {"flags": cv2.INTER_AREA}
    cover = cv2.warpAffine(np.full(code.shape, 255, np.uint8), turn, (width, height), **options)[..., None] / 255
    printed = cv2.warpAffine(code, turn, (width, height), **options)[..., None]
    return np.rint(photo * (1 - cover) + printed).clip(0, 255).astype(np.uint8), high * wide / (height * width)


def qr_code(text: str = "https://example.org/ugaf") -> np.ndarray:
    return np.asarray(cv2.QRCodeEncoder.create().encode(text))


def ean13(digits: str = "400638133393") -> np.ndarray:
    """GS1 General Specifications, 5.2: 95 modules, with 9 white ones on either side."""
    left = [
        "0001101",
        "0011001",
        "0010011",
        "0111101",
        "0100011",
        "0110001",
        "0101111",
        "0111011",
        "0110111",
        "0001011",
    ]
    parity = ["LLLLLL", "LLGLGG", "LLGGLG", "LLGGGL", "LGLLGG", "LGGLLG", "LGGGLL", "LGLGLG", "LGLGGL", "LGGLGL"]
    right = [code.translate(str.maketrans("01", "10")) for code in left]
    values = [int(digit) for digit in digits]
    values.append(-sum(value * (1, 3)[place % 2] for place, value in enumerate(values)) % 10)
    first = zip(parity[values[0]], values[1:7], strict=True)
    bits = "101" + "".join(left[v] if kind == "L" else right[v][::-1] for kind, v in first)
    bits += "01010" + "".join(right[v] for v in values[7:]) + "101"
    line = np.array([255] * 9 + [0 if bit == "1" else 255 for bit in bits] + [255] * 9, np.uint8)
    return np.repeat(line[None], 60, axis=0)


def tilted(photo: np.ndarray, angle: float, colour: tuple[int, int, int], whole: bool) -> np.ndarray:
    """The photograph turned inside of its canvas, which grows (`whole`) or cuts its corners off."""
    height, width = photo.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1)
    if whole:
        cos, sin = abs(turn[0, 0]), abs(turn[0, 1])
        size = int(height * sin + width * cos), int(height * cos + width * sin)
        turn[:, 2] += (size[0] / 2 - width / 2, size[1] / 2 - height / 2)
    else:
        size = (width, height)
    return cv2.warpAffine(photo, turn, size, flags=cv2.INTER_LINEAR, borderValue=colour)


def horizon(height: int = 600, width: int = 900) -> np.ndarray:
    """A level sea under a clear sky: a full-length straight edge that is no seam."""
    sky = np.linspace((120, 170, 230), (190, 210, 235), height // 2)[:, None]
    sea = np.linspace((40, 80, 110), (20, 50, 80), height - height // 2)[:, None]
    noise = np.random.default_rng(0).normal(0, 5, (height, width, 3))
    return np.clip(np.concatenate([sky, sea]) + noise, 0, 255).astype(np.uint8)


def window(photo: np.ndarray) -> np.ndarray:
    """A view through a window whose bars are a little off the vertical, as a hand-held camera has them."""
    view = photo.copy()
    height, width = view.shape[:2]
    cv2.line(view, (width // 2, 0), (width // 2 + width // 60, height), (235, 232, 228), max(4, width // 40))
    return cv2.GaussianBlur(view, (0, 0), 1)


NAMES = ["astronaut", "chelsea", "coffee", "rocket", "motorcycle"]


@pytest.mark.parametrize("name", NAMES)
def test_photographs_pass(photos: dict[str, np.ndarray], name: str) -> None:
    found = measured(photos[name])
    assert (found["code_area"], found["frame"], found["rotation"]) == (0, 0, 0)
    assert found["collage"] < 0.6


def test_other_photographs_pass(shared_images: Path) -> None:
    for path in sorted(shared_images.glob("photos/*.*")):
        (found,) = Validity("curation.validity")([Row("0" * 32, {"image": path.read_bytes()})])
        assert isinstance(found, Mapping), found
        assert rejected(found) == set(), path.name


def test_straight_edges_of_a_scene_are_no_seams(photos: dict[str, np.ndarray]) -> None:
    assert rejected(measured(horizon())) == set()
    assert rejected(measured(window(photos["coffee"]))) == set()
    assert rejected(measured(window(photos["astronaut"]).transpose(1, 0, 2))) == set()


@pytest.mark.parametrize(("columns", "count"), [(2, 2), (1, 2), (3, 3), (2, 4), (3, 6), (3, 9)])
@pytest.mark.parametrize(
    ("gutter", "colour"), [(0, BLACK), (4, WHITE), (10, BLACK), (24, WHITE), (40, (240, 235, 225))]
)
def test_collages_are_caught(
    photos: dict[str, np.ndarray], columns: int, count: int, gutter: int, colour: tuple[int, int, int]
) -> None:
    names = ["coffee", "motorcycle", "astronaut", "chelsea", "coffee"]
    pictures = [photos[names[number % len(names)]] for number in range(count)]
    assert "collage" in rejected(measured(collage(pictures, columns, gutter, colour)))


@pytest.mark.parametrize(("faded", "strength"), [(0, 1.0), (60, 1 - 60 / 500), (167, 0.25)])
def test_a_seam_s_strength_is_its_share_unless_it_lacks_parts(faded: int, strength: float) -> None:
    """Two panels of soft noise, with the upper rows of the seam faded out: one eighth may be missing, a third not."""
    rng = np.random.default_rng(1)
    left, right = (cv2.resize(rng.integers(0, 256, (17, 17, 3), dtype=np.uint8), (500, 500)) for _ in range(2))
    weight = np.broadcast_to(np.where(np.arange(500) < 250, 0.0, 1.0), (500, 500)).copy()
    weight[:faded] = np.clip((np.arange(500) - 200) / 100, 0, 1)
    both = left * (1 - weight[..., None]) + right * weight[..., None]
    assert composition.collage(both.astype(np.uint8)) == pytest.approx(strength, abs=0.08)


@pytest.mark.parametrize("angle", [0, 12, -40])
@pytest.mark.parametrize("side", [110, 190, 300])
@pytest.mark.parametrize("name", ["coffee", "astronaut"])
def test_qr_codes_are_measured(photos: dict[str, np.ndarray], name: str, side: int, angle: float) -> None:
    code = qr_code()
    with_code, share = pasted(photos[name], code, side, angle)
    found = measured(with_code)["code_area"]
    # The detector's corners are those of the modules; the encoder leaves a margin of 2 on each side.
    modules = (1 - 4 / code.shape[0]) ** 2
    assert found == pytest.approx(share * modules, rel=0.15)


@pytest.mark.parametrize("angle", [0, 8, 90])
def test_bar_codes_are_measured(photos: dict[str, np.ndarray], angle: float) -> None:
    with_code, share = pasted(photos["coffee"], ean13(), 120, angle)
    assert measured(with_code)["code_area"] == pytest.approx(share * 95 / 113, rel=0.25)


def test_a_small_code_is_kept_and_two_codes_add_up(photos: dict[str, np.ndarray]) -> None:
    wide = filled(photos["coffee"], 1200, 600)
    one, share = pasted(wide[:, :600], qr_code(), 170, 0)
    two, _ = pasted(wide[:, 600:], qr_code("another one, elsewhere"), 170, 0)
    both = measured(np.concatenate([one, two], axis=1))["code_area"]
    assert both == pytest.approx(share, rel=0.4)
    small, _ = pasted(wide, qr_code(), 120, 0)
    assert rejected(measured(small)) == set()


def frames() -> dict[str, np.ndarray]:
    """Frames of 600 x 800 as they are hung on walls; the picture goes over the middle."""
    rng = np.random.default_rng(3)
    streaks = cv2.blur(rng.normal(0, 60, (600, 800)).astype(np.float32), (31, 1))[..., None]
    ramp = np.linspace(30, 230, 800)[None, :, None] * np.array([1, 0.8, 0.6]) + np.zeros((600, 1, 1))
    mat = np.full((600, 800, 3), 245.0)
    mat[:30], mat[-30:], mat[:, :30], mat[:, -30:] = 20, 20, 20, 20
    wood = streaks + np.array([130, 85, 50])
    return {
        name: np.clip(pixels, 0, 255).astype(np.uint8)
        for name, pixels in (("wood", wood), ("ramp", ramp), ("mat", mat))
    }


@pytest.mark.parametrize("kind", ["wood", "ramp", "mat"])
@pytest.mark.parametrize("depth", [60, 110])
def test_frames_are_measured(photos: dict[str, np.ndarray], kind: str, depth: int) -> None:
    framed = frames()[kind].copy()
    framed[depth:-depth, depth:-depth] = filled(photos["coffee"], 800 - 2 * depth, 600 - 2 * depth)
    truth = 1 - (800 - 2 * depth) * (600 - 2 * depth) / (600 * 800)
    assert measured(framed)["frame"] == pytest.approx(truth, abs=0.03)


def test_three_edges_are_no_frame(photos: dict[str, np.ndarray]) -> None:
    framed = frames()["wood"].copy()
    framed[60:, 60:-60] = filled(photos["coffee"], 680, 540)
    assert measured(framed)["frame"] == 0


@pytest.mark.parametrize("colour", [BLACK, WHITE, (120, 130, 140)])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("angle", [-35.0, -7.0, 4.0, 20.0, 44.0])
def test_tilts_are_measured(
    photos: dict[str, np.ndarray], angle: float, whole: bool, colour: tuple[int, int, int]
) -> None:
    assert measured(tilted(photos["coffee"], angle, colour, whole))["rotation"] == pytest.approx(abs(angle), abs=0.5)


def test_what_only_looks_like_a_tilted_canvas_is_none(photos: dict[str, np.ndarray]) -> None:
    photo = filled(photos["motorcycle"], 600, 600)
    ys, xs = np.mgrid[-300:300, -300:300]
    round_one = np.where((xs**2 + ys**2 < 320**2)[..., None], photo, np.uint8(0))
    assert measured(round_one)["rotation"] == 0
    one_corner = photo.copy()
    one_corner[np.add.outer(np.arange(600), np.arange(600)) < 150] = 0
    assert measured(one_corner)["rotation"] == 0


@pytest.mark.parametrize("level", [0, 255])
def test_blank_pictures_have_no_layout(level: int) -> None:
    assert set(measured(np.full((300, 400, 3), level, np.uint8)).values()) == {0}


@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**32 - 1))
def test_small_pictures_of_any_size_are_measured(height: int, width: int, seed: int) -> None:
    found = composition.measure(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))
    assert all(0 <= found[name] <= 1 for name in ("code_area", "collage", "frame"))
    assert 0 <= found["rotation"] <= 45


def test_mirrored_and_turned_pictures_measure_the_same(photos: dict[str, np.ndarray]) -> None:
    sheet = images.decode(images.encode(collage([photos["coffee"], photos["rocket"]], 2, 0, BLACK)), 512)
    strength = composition.collage(sheet)
    for other in (sheet[:, ::-1], sheet[::-1], sheet.transpose(1, 0, 2)):
        assert composition.collage(np.ascontiguousarray(other)) == pytest.approx(strength, abs=0.05)


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="RGB uint8"):
        composition.measure(np.zeros((10, 10), np.uint8))


def test_a_truncated_photograph_is_a_failure_and_its_neighbours_are_not(photos: dict[str, np.ndarray]) -> None:
    good = images.encode(photos["coffee"], "jpeg")
    rows = [Row(str(i), {"image": data}) for i, data in enumerate([good, good[: len(good) // 2], good])]
    first, cut, last = Validity("curation.validity")(rows)
    assert isinstance(cut, Failure)
    assert first == last
