"""Noise, JPEG's blocks and borders: by value, by property, and on pictures made by hand."""

from __future__ import annotations

import io
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from ugaf.imaging import images
from ugaf.measures import artifacts, photometry

NAMES = ["astronaut", "chelsea", "coffee", "rocket", "motorcycle"]


def jpeg(rgb: np.ndarray, quality: int, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[images.EXIF_ORIENTATION] = orientation
    out = io.BytesIO()
    Image.fromarray(rgb).save(out, "JPEG", quality=quality, exif=exif)
    return out.getvalue()


def blockiness(data: bytes, side: int | None = None) -> tuple[float | None, int]:
    """Blockiness as a decode to `side` sees it, and the scale of the decode."""
    seen: list[tuple[float | None, int]] = []
    images.decode(data, side, lambda pixels, scale: seen.append((artifacts.blockiness(pixels, scale), scale)))
    (answer,) = seen
    return answer


class TestNoise:
    @pytest.mark.parametrize("deviation", [2, 5, 10, 20])
    def test_it_finds_the_deviation_of_white_noise_on_a_smooth_picture(self, deviation: int) -> None:
        y, x = np.mgrid[:256, :256]
        smooth = 128 + 30 * np.sin(x / 40) + 20 * np.cos(y / 55)
        noisy = smooth + np.random.default_rng(0).normal(0, deviation, smooth.shape)
        rgb = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)
        assert artifacts.noise_level(rgb) == pytest.approx(deviation, rel=0.03)

    @pytest.mark.parametrize("name", NAMES)
    def test_it_grows_with_noise_and_falls_with_blur(self, photos: dict[str, np.ndarray], name: str) -> None:
        grain = np.random.default_rng(0).normal(0, 1, photos[name].shape)
        noisy = [np.clip(photos[name] + s * grain, 0, 255).astype(np.uint8) for s in (0, 10, 20, 40)]
        levels = [artifacts.noise_level(rgb) for rgb in noisy]
        assert levels == sorted(levels)
        blurred = [cv2.GaussianBlur(noisy[-1], (0, 0), sigma) for sigma in (0.5, 1, 2)]
        falling = [levels[-1], *(artifacts.noise_level(rgb) for rgb in blurred)]
        assert falling == sorted(falling, reverse=True)

    def test_planes_and_straight_edges_are_no_noise(self) -> None:
        ramp = np.add.outer(np.arange(60), 2 * np.arange(60)).astype(np.uint8)[..., None].repeat(3, axis=2)
        edge = np.zeros((60, 60, 3), np.uint8)
        edge[:, 31:] = 255
        assert artifacts.noise_level(ramp) == artifacts.noise_level(edge) == 0

    @pytest.mark.parametrize("shape", [(2, 50), (50, 2), (1, 1)])
    def test_an_image_without_room_for_the_kernel_has_none(self, shape: tuple[int, int]) -> None:
        assert artifacts.noise_level(np.zeros((*shape, 3), np.uint8)) is None


class TestBlockiness:
    @given(
        hnp.arrays(np.uint8, st.tuples(st.integers(1, 25), st.integers(1, 25))),
        st.sampled_from([1, 2, 4]),
        st.sampled_from([0, 2, 5]),
    )
    def test_it_is_the_ratio_over_all_pairs_of_neighbours(self, grey: np.ndarray, scale: int, shift: int) -> None:
        grey = grey >> shift
        block = 8 // scale
        across, inside = [], []
        for y, x in np.ndindex(grey.shape):
            for other_y, other_x in ((y + 1, x), (y, x + 1)):
                if other_y < grey.shape[0] and other_x < grey.shape[1]:
                    step = min(8, abs(int(grey[y, x]) - int(grey[other_y, other_x])))
                    same_block = (y // block, x // block) == (other_y // block, other_x // block)
                    (inside if same_block else across).append(step)
        value = artifacts.blockiness(grey[..., None].repeat(3, axis=2), scale)
        if not across:
            assert value is None
        else:
            assert value == pytest.approx(max(0.25, np.mean(across)) / max(0.25, np.mean(inside)))
            assert 1 / 32 <= value <= 32

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize(("side", "scale"), [(512, 1), (256, 2), (128, 4)])
    def test_it_rises_as_quality_falls_at_every_scale_of_the_decode(
        self, photos: dict[str, np.ndarray], name: str, side: int, scale: int
    ) -> None:
        # Made smaller and larger again, so that it has no grid of its own.
        photo = cv2.resize(photos[name][:290, :290], (512, 512), interpolation=cv2.INTER_CUBIC)
        seen = [blockiness(jpeg(photo, quality), side) for quality in (95, 50, 20, 10, 5)]
        assert {s for _, s in seen} == {scale}
        values = [value for value, _ in seen]
        assert values == sorted(values)
        assert values[0] == pytest.approx(1, abs=0.2)
        assert values[-1] > 1.5

    @pytest.mark.parametrize("name", NAMES)
    def test_a_jpeg_that_was_saved_as_png_still_shows_it(self, photos: dict[str, np.ndarray], name: str) -> None:
        data = jpeg(photos[name], 10)
        png = images.encode(images.decode(data))
        assert blockiness(png, 128) == (blockiness(data)[0], 1)
        assert blockiness(data)[0] > 1.4

    @pytest.mark.parametrize("side", [None, 200, 100])
    @pytest.mark.parametrize("orientation", range(2, 9))
    def test_exif_rotation_does_not_move_the_grid(
        self, photos: dict[str, np.ndarray], orientation: int, side: int | None
    ) -> None:
        odd = np.ascontiguousarray(photos["coffee"][:301, :403])
        assert blockiness(jpeg(odd, 10, orientation), side) == blockiness(jpeg(odd, 10), side)

    def test_the_grid_is_where_the_file_begins(self, photos: dict[str, np.ndarray]) -> None:
        pixels = images.decode(jpeg(photos["coffee"], 10))
        on, off = artifacts.blockiness(pixels), artifacts.blockiness(np.ascontiguousarray(pixels[4:, 4:]))
        assert on is not None
        assert off is not None
        assert on > 1.4
        assert off < 1.05

    def test_at_an_eighth_there_is_nothing_to_see(self, photos: dict[str, np.ndarray]) -> None:
        assert blockiness(jpeg(photos["astronaut"], 10), 64) == (None, 8)

    @pytest.mark.parametrize("shape", [(8, 8), (1, 1), (3, 8)])
    def test_an_image_within_one_block_has_none(self, shape: tuple[int, int]) -> None:
        assert artifacts.blockiness(np.zeros((*shape, 3), np.uint8)) is None

    def test_made_by_hand(self) -> None:
        flat = np.full((64, 64, 3), 90, np.uint8)
        assert artifacts.blockiness(flat) == 1
        checks = np.where(np.indices((64, 64)).sum(axis=0) % 2 == 0, 100, 110).astype(np.uint8)
        assert artifacts.blockiness(checks[..., None].repeat(3, axis=2)) == 1
        blocks = np.kron(np.indices((8, 8)).sum(axis=0) % 2 * 4 + 100, np.ones((8, 8), int)).astype(np.uint8)
        # 4 levels across every border, nothing inside, which counts as a quarter level.
        assert artifacts.blockiness(blocks[..., None].repeat(3, axis=2)) == 16


def textured(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


class TestBorder:
    @given(
        st.tuples(*[st.integers(0, 12)] * 4),
        st.tuples(*[st.integers(0, 255)] * 3),
        st.integers(24, 60),
        st.integers(24, 60),
    )
    def test_a_frame_s_share_of_the_area(
        self, bars: tuple[int, int, int, int], colour: tuple[int, int, int], height: int, width: int
    ) -> None:
        top, bottom, left, right = bars
        picture = cv2.copyMakeBorder(textured(height, width), *bars, cv2.BORDER_CONSTANT, value=colour)
        share = 1 - height * width / ((height + top + bottom) * (width + left + right))
        assert artifacts.border(picture) == pytest.approx(share, abs=1e-12)

    @given(st.tuples(*[st.integers(0, 12)] * 4), st.integers(0, 255))
    @pytest.mark.parametrize("turn", [np.flipud, np.fliplr, lambda a: a.swapaxes(0, 1)], ids=["up", "mirror", "turn"])
    def test_turning_the_picture_changes_nothing(
        self, turn: Callable[[np.ndarray], np.ndarray], bars: tuple[int, int, int, int], level: int
    ) -> None:
        picture = cv2.copyMakeBorder(textured(30, 44), *bars, cv2.BORDER_CONSTANT, value=(level, 0, level))
        picture = cv2.copyMakeBorder(picture, 3, 0, 0, 2, cv2.BORDER_CONSTANT, value=(250, 250, 240))
        assert artifacts.border(np.ascontiguousarray(turn(picture))) == artifacts.border(picture)

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize(
        ("bars", "colour"),
        [((80, 80, 0, 0), (0, 0, 0)), ((0, 0, 90, 60), (0, 0, 0)), ((20, 20, 20, 20), (250, 248, 240))],
        ids=["letterbox", "pillarbox", "frame"],
    )
    def test_it_survives_jpeg_and_reduction(
        self, photos: dict[str, np.ndarray], name: str, bars: tuple[int, ...], colour: tuple[int, ...]
    ) -> None:
        picture = cv2.copyMakeBorder(photos[name], *bars, cv2.BORDER_CONSTANT, value=colour)
        share = 1 - photos[name].size / picture.size
        assert artifacts.border(images.decode(jpeg(picture, 60), 256)) == pytest.approx(share, abs=0.025)

    @pytest.mark.parametrize("name", NAMES)
    def test_photographs_have_none(self, photos: dict[str, np.ndarray], name: str) -> None:
        assert artifacts.border(images.decode(images.encode(photos[name]), 256)) == 0

    def test_two_bars_of_different_colours_and_one_inside_the_other(self) -> None:
        picture = textured(40, 40)
        for bars, level in (((5, 0, 0, 0), 0), ((0, 0, 6, 0), 255), ((4, 4, 4, 4), 90)):
            picture = cv2.copyMakeBorder(picture, *bars, cv2.BORDER_CONSTANT, value=(level, level, level))
        assert artifacts.border(picture) == pytest.approx(1 - 40 * 40 / (53 * 54))

    def test_a_sky_and_a_white_ground_are_no_bars(self) -> None:
        for steep in (0.5, 2, 5):
            lines = np.clip(250 - steep * np.arange(100), 0, 255).astype(np.uint8)
            sky = lines[:, None, None].repeat(120, axis=1).repeat(3, axis=2)
            assert artifacts.border(sky[:50]) == 0
            sky[50:] = textured(50, 120)
            assert artifacts.border(sky) == 0
        ground = np.full((200, 200, 3), 255, np.uint8)
        cv2.circle(ground, (100, 100), 60, (180, 30, 30), -1)
        assert artifacts.border(ground) == 0

    def test_specks_in_a_bar_do_not_break_it(self) -> None:
        picture = cv2.copyMakeBorder(textured(60, 120), 20, 20, 0, 0, cv2.BORDER_CONSTANT)
        picture[5, 50:52] = 255
        assert artifacts.border(picture) == pytest.approx(0.4)

    def test_a_blank_picture_is_all_border(self) -> None:
        assert artifacts.border(np.full((30, 20, 3), 7, np.uint8)) == 1


def test_measures_take_planes_or_pixels_and_refuse_anything_else() -> None:
    for measure in (artifacts.border, artifacts.noise_level, artifacts.blockiness, artifacts.clipped_dark):
        with pytest.raises(ValueError, match="expected RGB uint8"):
            measure(np.zeros((4, 4), np.uint8))
    rgb = textured(20, 20)
    assert photometry.luma(rgb).shape == (20, 20)
