"""Every kind of file gives the same upright RGB picture, and every kind of damage an error with its reason."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, features

from ugaf.imaging import images, integrity
from ugaf.imaging.images import ImageError
from ugaf.measures import photometry


def save(image: Image.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def with_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[images.EXIF_ORIENTATION] = orientation
    return exif


@pytest.fixture(scope="module")
def rgb(photos: dict[str, np.ndarray]) -> np.ndarray:
    """A photograph, wider than high, of odd size."""
    return np.ascontiguousarray(photos["coffee"][:301, :403])


@pytest.fixture(scope="module")
def photo(rgb: np.ndarray) -> Image.Image:
    return Image.fromarray(rgb)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, ((a.astype(float) - b) ** 2).mean())))


class TestOrientation:
    @pytest.mark.parametrize("side", [None, 100])
    @pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_all_eight_as_pillow_turns_them(
        self, photo: Image.Image, format: str, orientation: int, side: int | None
    ) -> None:
        options: dict[str, Any] = {"lossless": True} if format == "WEBP" else {}
        data = save(photo, format, exif=with_orientation(orientation), **options)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
        if side is not None:
            expected = cv2.resize(expected, images.fit(*expected.shape[1::-1], side), interpolation=cv2.INTER_AREA)
        decoded = images.decode(data, side)
        assert decoded.shape == expected.shape
        assert psnr(decoded, expected) > (60 if side is None else 32)
        info = images.probe(data)
        if side is None:
            assert (info.height, info.width) == decoded.shape[:2]
        assert info.plain == (orientation == 1)

    def test_the_fast_road_and_pillow_turn_alike(self) -> None:
        """Seen by value: the corner that is red in the file lands where the Exif standard puts it."""
        pixels = np.zeros((16, 32, 3), np.uint8)
        pixels[:8, :8] = (255, 0, 0)
        corners = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
        for format in ("JPEG", "PNG"):
            for orientation, corner in corners.items():
                image = Image.fromarray(pixels)
                options = {"subsampling": 0, "quality": 95} if format == "JPEG" else {}
                upright = images.decode(save(image, format, exif=with_orientation(orientation), **options))
                assert upright[corner][0] > 200, (format, orientation)

    @pytest.mark.parametrize("exif", [b"Exif\0\0MM\0*garbage", b"Exif\0\0", b"Exif\0\0" + bytes(range(200))])
    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
    def test_damaged_exif_costs_nothing_but_the_rotation(self, photo: Image.Image, format: str, exif: bytes) -> None:
        data = save(photo, format, exif=exif)
        assert images.decode(data).shape == (301, 403, 3)
        assert images.probe(data).width == 403

    def test_an_orientation_out_of_range_is_none(self, photo: Image.Image) -> None:
        assert images.decode(save(photo, "JPEG", exif=with_orientation(9))).shape == (301, 403, 3)


class TestNormalisation:
    @pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "PPM"])
    def test_lossless_formats_give_the_pixels(self, photo: Image.Image, rgb: np.ndarray, format: str) -> None:
        assert np.array_equal(images.decode(save(photo, format)), rgb)

    @pytest.mark.skipif(not features.check("avif"), reason="Pillow was built without AVIF")
    def test_avif(self, photo: Image.Image, rgb: np.ndarray) -> None:
        assert psnr(images.decode(save(photo, "AVIF", quality=90)), rgb) > 30

    def test_cmyk_jpeg_follows_adobes_inverted_convention(self) -> None:
        """Pillow writes the Adobe marker and inverted values, as Photoshop does."""
        cmyk = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
        data = save(cmyk, "JPEG", quality=95)
        assert b"Adobe" in data
        assert np.abs(images.decode(data).astype(int) - (255, 0, 0)).max() <= 3
        assert not images.probe(data).plain

    def test_cmyk_tiff_is_not_inverted(self) -> None:
        data = save(Image.new("CMYK", (8, 8), (255, 0, 255, 0)), "TIFF")
        assert np.array_equal(images.decode(data), np.full((8, 8, 3), (0, 255, 0), np.uint8))

    def test_grey_jpeg(self, photo: Image.Image) -> None:
        data = save(photo.convert("L"), "JPEG")
        decoded = images.decode(data)
        assert np.array_equal(decoded[..., 0], np.asarray(Image.open(io.BytesIO(data))))
        assert np.array_equal(decoded[..., 0], decoded[..., 1])
        assert images.decode(data, 100).shape == (75, 100, 3)

    def test_palette(self, photo: Image.Image) -> None:
        palette = photo.quantize(64)
        assert np.array_equal(images.decode(save(palette, "PNG")), np.asarray(palette.convert("RGB")))
        assert images.probe(save(palette, "PNG")).plain

    @pytest.mark.parametrize("transparency", [0, bytes([0, 255, 255])])
    def test_a_palettes_transparent_colour_becomes_white(self, transparency: int | bytes) -> None:
        image = Image.new("P", (4, 2), 0)
        image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
        image.putpixel((1, 0), 1)
        data = save(image, "PNG", transparency=transparency)
        decoded = images.decode(data)
        assert decoded[0, 0].tolist() == [255, 255, 255]
        assert decoded[0, 1].tolist() == [0, 255, 0]
        assert not images.probe(data).plain

    @pytest.mark.parametrize("mode", ["RGBA", "LA"])
    def test_alpha_is_composited_over_white(self, photo: Image.Image, mode: str) -> None:
        image = photo.convert(mode)
        alpha = np.tile(np.linspace(0, 255, image.width).astype(np.uint8), (image.height, 1))
        image.putalpha(Image.fromarray(alpha))
        colour = np.asarray(photo.convert("L").convert("RGB") if mode == "LA" else photo).astype(float)
        weight = alpha[..., None] / 255
        expected = np.rint(colour * weight + 255 * (1 - weight))
        assert np.abs(images.decode(save(image, "PNG")) - expected).max() <= 1
        assert not images.probe(save(image, "PNG")).plain

    @pytest.mark.parametrize(("mode", "colour"), [("RGB", (9, 8, 7)), ("L", 9)])
    def test_a_transparent_colour_becomes_white(self, mode: str, colour: Any) -> None:
        image = Image.new(mode, (4, 4), colour)
        image.putpixel((0, 0), 0 if mode == "L" else (0, 0, 0))
        decoded = images.decode(save(image, "PNG", transparency=colour))
        assert decoded[0, 0].tolist() == [0, 0, 0]
        assert decoded[1, 1].tolist() == [255, 255, 255]

    def test_one_bit(self) -> None:
        bits = np.random.default_rng(0).random((9, 13)) > 0.5
        for format in ("PNG", "TIFF", "BMP"):
            assert np.array_equal(images.decode(save(Image.fromarray(bits), format))[..., 0], bits * np.uint8(255))

    @pytest.mark.parametrize("format", ["PNG", "TIFF"])
    def test_16_bit_grey_is_scaled_by_its_full_range(self, format: str) -> None:
        values = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
        decoded = images.decode(save(Image.fromarray(values), format))
        assert np.array_equal(decoded[..., 0], np.rint(values / 257).astype(np.uint8))
        dark = images.decode(save(Image.fromarray(values // 8), format))
        assert dark.max() == 32  # by the type's range, not by the image's own

    def test_16_bit_grey_of_either_byte_order(self) -> None:
        values = np.linspace(0, 30000, 64).astype(np.uint16).reshape(8, 8)
        pixels = [values.astype(order + "u2").tobytes() for order in "<>"]
        little, big = (images.decode(tiff(mark, data, 8, 8, bits=16)) for mark, data in zip("<>", pixels, strict=True))
        assert np.array_equal(little, big)
        assert little.max() == round(30000 / 257)

    def test_16_bit_rgb_keeps_the_high_byte(self, rgb: np.ndarray) -> None:
        ok, data = cv2.imencode(".png", rgb[..., ::-1].astype(np.uint16) * 257)
        assert ok
        assert np.array_equal(images.decode(data.tobytes()), rgb)
        assert not images.probe(data.tobytes()).plain

    def test_float_tiff(self) -> None:
        ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
        expected = np.arange(256).reshape(16, 16)
        for values in (ramp, ramp * 255, ramp * 1000 - 500):
            assert np.array_equal(images.decode(save(Image.fromarray(values), "TIFF"))[..., 0], expected)

    def test_float_tiff_with_values_that_are_not_finite(self) -> None:
        values = np.array([[0, 0.5, 1], [np.nan, np.inf, -np.inf]], np.float32)
        decoded = images.decode(save(Image.fromarray(values), "TIFF"))[..., 0]
        assert decoded.tolist() == [[0, 128, 255], [0, 255, 0]]
        assert images.decode(save(Image.fromarray(values[1:, :1]), "TIFF")).tolist() == [[[0, 0, 0]]]

    @pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
    def test_an_animation_is_its_first_frame(self, format: str) -> None:
        frames = [Image.new("RGB", (16, 12), colour) for colour in ((255, 0, 0), (0, 0, 255))]
        options: dict[str, Any] = {"lossless": True} if format == "WEBP" else {}
        data = save(frames[0], format, save_all=True, append_images=frames[1:], **options)
        assert np.array_equal(images.decode(data), np.full((12, 16, 3), (255, 0, 0), np.uint8))

    @given(st.integers(1, 20), st.integers(1, 20), st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]))
    @settings(max_examples=40, deadline=None)
    def test_any_mode_and_size_gives_writable_rgb_uint8(self, width: int, height: int, mode: str) -> None:
        decoded = images.decode(save(Image.new(mode, (width, height)), "PNG"))
        assert decoded.shape == (height, width, 3)
        assert decoded.dtype == np.uint8
        assert decoded.flags.writeable
        assert decoded.flags.c_contiguous


def tiff(order: str, pixels: bytes, width: int, height: int, bits: int) -> bytes:
    """A one-strip greyscale TIFF, written by hand."""
    fields = [(256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 0), (277, 1), (278, height), (279, 0)]
    start = 8 + 2 + 12 * len(fields) + 4
    values = dict(fields) | {273: start, 279: len(pixels)}
    directory = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in values.items())
    mark = b"II" if order == "<" else b"MM"
    head = mark + struct.pack(order + "HIH", 42, 8, len(fields))
    return head + directory + struct.pack(order + "I", 0) + pixels


def by_pillow(data: bytes, size: tuple[int, int], scale: int = 1) -> np.ndarray:
    """What `integrity.read_jpeg` gives, from Pillow."""
    image = Image.open(io.BytesIO(data))
    image.draft(None, (size[0] // scale, size[1] // scale))
    return np.array(image.convert("RGB"))


class TestScaledDecode:
    @pytest.mark.parametrize("subsampling", [0, 1, 2])
    @pytest.mark.parametrize("side", [64, 100, 128, 256, 333, 512])
    def test_it_equals_full_decode_and_area_reduction(
        self, photos: dict[str, np.ndarray], side: int, subsampling: int
    ) -> None:
        data = save(Image.fromarray(photos["motorcycle"]), "JPEG", quality=92, subsampling=subsampling)
        full = images.decode(data)
        expected = cv2.resize(full, images.fit(full.shape[1], full.shape[0], side), interpolation=cv2.INTER_AREA)
        scaled = images.decode(data, side)
        assert scaled.shape == expected.shape
        assert psnr(scaled, expected) > 32
        assert np.abs(scaled.mean((0, 1)) - expected.mean((0, 1))).max() < 0.5

    @pytest.mark.parametrize("side", [64, 128, 256])
    def test_where_the_fraction_is_exact_it_is_the_same_within_rounding(
        self, photos: dict[str, np.ndarray], side: int
    ) -> None:
        data = images.encode(photos["astronaut"], "jpeg")
        expected = cv2.resize(images.decode(data), (side, side), interpolation=cv2.INTER_AREA)
        assert psnr(images.decode(data, side), expected) > 45

    @pytest.mark.parametrize("side", [100, 150, 170, 200, 290])
    def test_it_is_as_sharp_as_area_reduction(self, photos: dict[str, np.ndarray], side: int) -> None:
        for name in ("coffee", "motorcycle", "astronaut"):
            full = photos[name]
            png, jpeg = images.decode(images.encode(full), side), images.decode(images.encode(full, "jpeg"), side)
            assert photometry.sharpness(jpeg) == pytest.approx(photometry.sharpness(png), rel=0.1)

    def test_the_fast_road_gives_pillows_pixels(self, photos: dict[str, np.ndarray], monkeypatch: Any) -> None:
        kinds: list[dict[str, Any]] = [{}, {"subsampling": 0}, {"progressive": True}, {"keep_rgb": True, "quality": 90}]
        for name in ("astronaut", "chelsea", "rocket"):
            for mode in ("RGB", "L"):
                for options in kinds if mode == "RGB" else kinds[:3:2]:
                    data = save(Image.fromarray(photos[name]).convert(mode), "JPEG", **options)
                    for side in (None, 50, 128, 200):
                        fast = images.decode(data, side)
                        with monkeypatch.context() as patch:
                            patch.setattr(integrity, "read_jpeg", by_pillow)
                            slow = images.decode(data, side)
                        assert np.array_equal(fast, slow), (name, mode, options, side)

    def test_what_follows_the_picture_in_its_file_does_not_matter(self, photo: Image.Image) -> None:
        whole = save(photo, "JPEG", exif=with_orientation(6), icc_profile=None)
        assert np.array_equal(images.decode(whole + b"trailing bytes of some camera" * 10), images.decode(whole))
        assert np.array_equal(images.decode(whole + bytes(5000)), images.decode(whole))

    @pytest.mark.parametrize("format", ["JPEG", "PNG"])
    def test_it_never_enlarges(self, photo: Image.Image, format: str) -> None:
        assert images.decode(save(photo, format), 2000).shape == (301, 403, 3)

    @given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 1024))
    def test_fit(self, width: int, height: int, side: int) -> None:
        w, h = images.fit(width, height, side)
        assert max(w, h) == min(side, max(width, height))
        assert 1 <= w <= width
        assert 1 <= h <= height
        assert images.fit(height, width, side) == (h, w)
        assert abs(w / width - h / height) * min(width, height) <= 1


class TestInspect:
    @pytest.mark.parametrize(("side", "scale"), [(None, 1), (300, 1), (256, 2), (200, 1), (100, 2), (128, 4), (64, 8)])
    def test_it_is_shown_what_the_decoder_gives_and_the_scale(
        self, photos: dict[str, np.ndarray], side: int | None, scale: int
    ) -> None:
        data = save(Image.fromarray(photos["astronaut"]), "JPEG", exif=with_orientation(6))
        shown: list[tuple[np.ndarray, int]] = []
        pixels = images.decode(data, side, lambda rgb, scale: shown.append((rgb.copy(), scale)))
        assert np.array_equal(pixels, images.decode(data, side))
        ((rgb, found),) = shown
        assert found == scale
        assert rgb.shape == (512 // scale, 512 // scale, 3)
        upright = np.rot90(rgb, -1)
        size = images.fit(512, 512, side or 512)
        assert np.array_equal(cv2.resize(upright, size, interpolation=cv2.INTER_AREA), pixels)

    @pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "BMP"])
    def test_other_formats_are_shown_whole(self, photo: Image.Image, format: str) -> None:
        shown: list[tuple[tuple[int, ...], int]] = []
        images.decode(save(photo, format), 50, lambda rgb, scale: shown.append((rgb.shape, scale)))
        assert shown == [((301, 403, 3), 1)]

    def test_it_cannot_change_the_pixels(self, photo: Image.Image) -> None:
        data = save(photo, "JPEG")
        with pytest.raises(ValueError, match="read-only"):
            images.decode(data, None, lambda rgb, _: rgb.fill(0))
        assert images.decode(data, None, lambda *_: None).flags.writeable

    def test_its_own_errors_are_not_taken_for_damage(self, photo: Image.Image) -> None:
        with pytest.raises(ZeroDivisionError):
            images.decode(save(photo, "PNG"), 50, lambda *_: 1 // 0)

    def test_it_is_not_called_for_a_damaged_file(self, photo: Image.Image) -> None:
        data = save(photo, "JPEG")
        with pytest.raises(ImageError):
            images.decode(data[: len(data) // 2], 50, lambda *_: pytest.fail("shown half a picture"))


class TestDamage:
    @pytest.mark.parametrize("side", [None, 50, 100, 200])
    @pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.9, 0.99])
    @pytest.mark.parametrize(
        ("format", "options"),
        [
            ("JPEG", {}),
            ("JPEG", {"progressive": True}),
            ("PNG", {}),
            ("WEBP", {}),
            ("TIFF", {}),
            ("BMP", {}),
            ("GIF", {}),
        ],
        ids=lambda value: value if isinstance(value, str) else ",".join(value),
    )
    def test_truncated(
        self, photo: Image.Image, format: str, options: dict[str, Any], share: float, side: int | None
    ) -> None:
        data = save(photo, format, **options)
        with pytest.raises(ImageError):
            images.decode(data[: int(len(data) * share)], side)

    @pytest.mark.parametrize("side", [None, 100])
    def test_a_thumbnail_does_not_hide_truncation(self, photo: Image.Image, side: int | None) -> None:
        thumbnail = save(photo.resize((80, 60)), "JPEG")
        exif = b"Exif\0\0" + thumbnail
        whole = save(photo, "JPEG", exif=exif)
        assert whole.count(b"\xff\xd9") == 2
        assert images.decode(whole, side).ndim == 3
        with pytest.raises(ImageError, match="truncated"):
            images.decode(whole[: len(whole) // 2 + len(exif) // 2], side)

    @given(st.floats(0, 1, exclude_max=True), st.sampled_from([None, 16, 32]))
    @settings(max_examples=80, deadline=None)
    def test_no_cut_of_a_jpeg_decodes(self, share: float, side: int | None) -> None:
        pixels = np.random.default_rng(1).integers(0, 256, (96, 128, 3), dtype=np.uint8)
        data = save(Image.fromarray(pixels), "JPEG", exif=with_orientation(6))
        with pytest.raises(ImageError):
            images.decode(data[: int(share * len(data))], side)

    @pytest.mark.parametrize("side", [None, 100])
    @pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
    def test_a_jpeg_that_was_written_over_in_the_middle_is_an_error(
        self, photo: Image.Image, options: dict[str, Any], side: int | None
    ) -> None:
        data = save(photo, "JPEG", quality=95, **options)
        third = len(data) // 3
        noise = np.random.default_rng(0).integers(0, 256, third, dtype=np.uint8).tobytes()
        with pytest.raises(ImageError):
            images.decode(data[:third] + noise + data[2 * third :], side)

    @given(st.data(), st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000"]))
    @settings(max_examples=150, deadline=None)
    def test_flipped_bytes_give_pixels_or_an_image_error(self, data: st.DataObject, format: str) -> None:
        pixels = np.random.default_rng(2).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        damaged = bytearray(save(Image.fromarray(pixels), format))
        for _ in range(data.draw(st.integers(1, 8))):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        for read in (images.decode, images.probe, images.decode_mask):
            try:
                read(bytes(damaged))
            except ImageError:
                continue

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "empty file"),
            (b"not an image at all" * 50, "not an image"),
            (bytes(1000), "not an image"),
            (b"\xff\xd8\xff", "not an image|header"),
            (b"<html><body>404</body></html>", "not an image"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        ],
    )
    def test_what_is_no_image(self, data: bytes, reason: str) -> None:
        for read in (images.decode, images.probe, images.decode_mask):
            with pytest.raises(ImageError, match=reason):
                read(data)

    def test_a_decompression_bomb_is_refused_unread(self) -> None:
        header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
        chunk = struct.pack(">I", len(header)) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
        bomb = b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
        for read in (images.decode, images.probe):
            with pytest.raises(ImageError, match="30000 x 30000"):
                read(bomb)


class TestProbe:
    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
    def test_size_and_format(self, photo: Image.Image, format: str) -> None:
        info = images.probe(save(photo, format))
        assert (info.width, info.height, info.format, info.plain) == (403, 301, format, True)

    def test_it_does_not_decode(self, photo: Image.Image, monkeypatch: Any) -> None:
        from PIL import ImageFile

        files = [save(photo, "PNG"), save(photo, "JPEG", exif=with_orientation(6))]
        monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail(f"probe decoded a {self.format}"))
        assert [images.probe(data).width for data in files] == [403, 301]


class TestEncode:
    @pytest.mark.parametrize("format", ["png", "webp"])
    def test_lossless_formats_give_the_pixels_back(self, rgb: np.ndarray, format: Any) -> None:
        data = images.encode(rgb, format)
        assert np.array_equal(images.decode(data), rgb)
        assert data == images.encode(rgb, format)

    @pytest.mark.parametrize("format", ["jpeg", "webp"])
    def test_quality(self, rgb: np.ndarray, format: Any) -> None:
        low, high = images.encode(rgb, format, 30), images.encode(rgb, format, 95)
        assert len(low) < len(high)
        assert 25 < psnr(images.decode(low), rgb) < psnr(images.decode(high), rgb)

    @given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
    @settings(max_examples=30, deadline=None)
    def test_a_mask_comes_back(self, height: int, width: int, seed: int) -> None:
        mask = np.random.default_rng(seed).random((height, width)) > 0.5
        assert np.array_equal(images.decode_mask(images.encode_mask(mask)), mask)

    def test_a_truncated_mask_is_an_error(self) -> None:
        data = images.encode_mask(np.random.default_rng(0).random((64, 64)) > 0.5)
        with pytest.raises(ImageError, match="mask"):
            images.decode_mask(data[: len(data) // 2])
