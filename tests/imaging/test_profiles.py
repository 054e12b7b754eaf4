"""A picture looks alike whatever profile its file carries, and only what every reader sees alike is plain."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from damage import png_chunk
from hypothesis import given, settings
from hypothesis import strategies as st
from icc import ADOBE, P3, PRO_PHOTO, SRGB, grey_profile, matrix_profile, numbers_in
from PIL import Image, ImageCms

from ugaf.imaging import images, profiles

WIDE = {"Adobe RGB": ADOBE, "Display P3": P3, "ProPhoto": PRO_PHOTO}


def save(pixels: np.ndarray, format: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format, **options)
    return out.getvalue()


@pytest.fixture(scope="module")
def photo(photos: dict[str, np.ndarray]) -> np.ndarray:
    return np.ascontiguousarray(photos["coffee"][:301, :403])


@pytest.mark.parametrize("side", [None, 100])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("space", WIDE)
def test_the_same_picture_in_another_space_is_the_same(
    photo: np.ndarray, space: str, format: str, side: int | None
) -> None:
    options: dict[str, Any] = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format, {})
    plain = images.decode(save(photo, format, **options), side)
    data = save(numbers_in(WIDE[space], photo), format, icc_profile=matrix_profile(*WIDE[space]), **options)
    found = np.abs(images.decode(data, side).astype(int) - plain)
    raw = np.abs(images.decode(save(numbers_in(WIDE[space], photo), format, **options), side).astype(int) - plain)
    assert found.mean() < (2.5 if format == "JPEG" else 1)
    assert raw.mean() > found.mean() + 1
    assert not images.probe(data).plain


@given(st.tuples(*[st.floats(0.02, 0.1)] * 6), st.floats(1.6, 2.6), st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_any_matrix_profile_is_undone(moves: tuple[float, ...], gamma: float, seed: int) -> None:
    """Primaries outside sRGB's by a random amount: what was written in them comes back."""
    red, green, blue = (
        (0.64 + moves[0], 0.33 + moves[1] / 4),
        (0.3 - moves[2], 0.6 + moves[3]),
        (0.15, 0.06 - moves[4] / 4),
    )
    space = ((red, green, blue), gamma)
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    data = save(numbers_in(space, pixels), icc_profile=matrix_profile(*space))
    # A dark tone of sRGB may fall between two levels of a steeper curve.
    bright = pixels.min(axis=2) > 40
    assert np.abs(images.decode(data).astype(int) - pixels)[bright].max(initial=0) <= 4


def test_srgb_under_any_name_changes_nothing(photo: np.ndarray) -> None:
    built_in = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (built_in, matrix_profile(*SRGB)):
        for format in ("PNG", "JPEG"):
            data = save(photo, format, icc_profile=profile)
            assert np.array_equal(images.decode(data), images.decode(save(photo, format)))
            assert images.probe(data).plain


@pytest.mark.parametrize("profile", [b"", b"no profile at all" * 20, matrix_profile(*ADOBE)[:200], bytes(500)])
def test_a_damaged_profile_says_nothing(photo: np.ndarray, profile: bytes) -> None:
    data = save(photo, "JPEG", icc_profile=profile)
    assert np.array_equal(images.decode(data), images.decode(save(photo, "JPEG")))
    assert images.probe(data).plain


def test_a_profile_for_another_kind_of_picture_says_nothing(photo: np.ndarray) -> None:
    data = save(photo, icc_profile=grey_profile(1.0))
    assert np.array_equal(images.decode(data), photo)
    cmyk = Image.fromarray(photo).convert("CMYK")
    out = [io.BytesIO(), io.BytesIO()]
    cmyk.save(out[0], "TIFF", icc_profile=matrix_profile(*ADOBE))
    cmyk.save(out[1], "TIFF")
    assert np.array_equal(*(images.decode(file.getvalue()) for file in out))


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_grey_picture_has_a_grey_or_an_rgb_profile(photo: np.ndarray, format: str) -> None:
    grey = photo[..., 1]
    linear = np.rint((grey / 255.0) ** 2.2 * 255).astype(np.uint8)
    wanted = images.decode(save(grey, format)).astype(int)
    options: dict[str, Any] = {"quality": 100} if format == "JPEG" else {}
    for profile in (grey_profile(1.0), matrix_profile(SRGB[0], 1.0)):
        data = save(linear, format, icc_profile=profile, **options)
        bright = grey > 60
        assert np.abs(images.decode(data).astype(int) - wanted)[bright].mean() < 4
        assert not images.probe(data).plain


def test_alpha_lies_over_white_after_the_profile(photo: np.ndarray) -> None:
    numbers = numbers_in(P3, photo)
    alpha = np.full(photo.shape[:2], 128, np.uint8)
    data = save(np.dstack([numbers, alpha]), icc_profile=matrix_profile(*P3))
    expected = images.decode(save(np.dstack([photo, alpha]))).astype(int)
    assert np.abs(images.decode(data) - expected).mean() < 1


def test_an_indexed_picture_has_a_profile_too(photo: np.ndarray) -> None:
    out = io.BytesIO()
    Image.fromarray(numbers_in(P3, photo)).quantize(200).save(out, "PNG", icc_profile=matrix_profile(*P3))
    assert np.abs(images.decode(out.getvalue()).astype(int) - photo).mean() < 6
    assert not images.probe(out.getvalue()).plain


def with_chunk(data: bytes, name: bytes, content: bytes) -> bytes:
    return data[:33] + png_chunk(name, content) + data[33:]


@pytest.mark.parametrize(
    ("name", "content", "plain"),
    [
        (b"gAMA", struct.pack(">I", 45455), True),
        (b"gAMA", struct.pack(">I", 100000), False),
        (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000), True),
        (b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000), False),
        (b"cICP", bytes([1, 13, 0, 1]), True),
        (b"cICP", bytes([12, 13, 0, 1]), False),
    ],
)
def test_what_a_png_declares_otherwise_is_not_applied_but_not_plain(
    photo: np.ndarray, name: bytes, content: bytes, plain: bool
) -> None:
    data = with_chunk(save(photo), name, content)
    assert np.array_equal(images.decode(data), photo)
    assert images.probe(data).plain == plain
    said = with_chunk(with_chunk(save(photo), name, content), b"sRGB", b"\0")
    assert images.probe(said).plain == (plain or name != b"cICP")


def test_profiles_are_read_once(photo: np.ndarray) -> None:
    data = save(numbers_in(ADOBE, photo), "JPEG", icc_profile=matrix_profile(*ADOBE))
    profiles._conversion.cache_clear()
    for _ in range(3):
        images.decode(data)
        images.probe(data)
    assert profiles._conversion.cache_info().misses == 1


class TestWideGrey:
    @pytest.mark.parametrize("bits", [9, 10, 12, 16])
    def test_12_bits_in_16_are_no_darkness(self, bits: int) -> None:
        largest = (1 << bits) - 1
        values = np.linspace(0, largest, 64 * 64).astype(np.uint16).reshape(64, 64)
        for format in ("PNG", "TIFF"):
            decoded = images.decode(save(values, format))[..., 0]
            full = 1023 if bits == 9 else largest
            assert np.array_equal(decoded, np.rint(values / full * 255).astype(np.uint8))

    def test_a_tiff_that_declares_its_range_is_taken_at_its_word(self) -> None:
        values = np.linspace(0, 3000, 64 * 64).astype(np.uint16).reshape(64, 64)
        for declared, white in ((16383, 47), (3000, 255)):
            data = save(values, "TIFF", tiffinfo={281: declared})
            assert images.decode(data).max() == white

    def test_16_bits_that_need_them_keep_their_own_range(self) -> None:
        values = np.linspace(0, 9000, 256).astype(np.uint16).reshape(16, 16)
        assert images.decode(save(values)).max() == 35


class TestNames:
    @pytest.mark.parametrize(
        ("data", "name"),
        [
            (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), "HEIC"),
            (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(100), "HEIC"),
            (b"\xff\x0a" + bytes(range(100)), "JPEG XL"),
            (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100), "JPEG XL"),
            (b"8BPS\0\1" + bytes(100), "Photoshop"),
            (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
            (b"<svg/>", "SVG"),
            (b"MM\0+\0\x08\0\0" + bytes(100), "BigTIFF"),
            (b"<!DOCTYPE html><html>", "HTML"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS"),
            (b"\0\0\0\x18ftypisom" + bytes(100), "video"),
            (b"%PDF-1.7", "PDF"),
        ],
    )
    def test_what_is_no_image_that_is_read_is_named(self, data: bytes, name: str) -> None:
        for read in (images.probe, images.decode):
            with pytest.raises(images.ImageError, match=name):
                read(data)

    def test_an_avif_that_is_too_big_is_told_by_its_size(self) -> None:
        ispe = b"\0\0\0\x14ispe\0\0\0\0" + struct.pack(">II", 17000, 17000)
        data = b"\0\0\0\x18ftypavif\0\0\0\0avifmif1" + struct.pack(">I", 8 + len(ispe)) + b"meta" + ispe
        with pytest.raises(images.ImageError, match="17000 x 17000 pixels is over the limit"):
            images.probe(data)

    def test_pillows_limit_is_left_to_others(self) -> None:
        assert Image.MAX_IMAGE_PIXELS == 89_478_485
        row = zlib.compress(bytes(1))
        header = struct.pack(">IIBBBBB", 12000, 10000, 8, 2, 0, 0, 0)
        data = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", row) + png_chunk(b"IEND", b"")
        assert images.probe(data).width == 12000
