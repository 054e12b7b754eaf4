"""What a strict reader refuses is refused, what is sound is taken; `damage.py` counts it over thousands of files."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import cv2
import damage
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ugaf.imaging import images, integrity, jpeg_scans
from ugaf.imaging.images import ImageError

FEW = {name: damage.photograph(name, side) for name, side in (("coffee", 240), ("rocket", 160))}
WHOLE = {codec: encode(FEW["coffee"]) for codec, encode in damage.CODECS.items()}


@pytest.mark.parametrize("kind", damage.DAMAGES)
def test_what_a_strict_reader_refuses_is_refused(kind: str) -> None:
    cases = [case for case in damage.damaged(FEW, 1) if case.damage == kind]
    assert cases
    vips = damage.has_vips()
    refused = [case for case in cases if damage.refused_by_strict(case.data, case.codec, vips)]
    assert refused
    assert [case.codec for case in refused if damage.taken(case.data) is not None] == []


def test_sound_files_are_taken() -> None:
    assert [codec for codec, data in damage.sound(FEW) if damage.taken(data) is None] == []


@pytest.mark.parametrize("codec", [codec for codec in damage.CODECS if codec not in ("bmp", "tiff")])
@given(st.floats(0.02, 0.98), st.sampled_from([None, 60]))
@settings(max_examples=12)
def test_no_zero_tail_is_taken_where_the_format_tells(codec: str, share: float, side: int | None) -> None:
    whole = WHOLE[codec]
    at = max(int(share * len(whole)), 200)
    if len(whole) - at < 600:
        return
    with pytest.raises(ImageError):
        images.decode(whole[:at] + bytes(len(whole) - at), side)


@pytest.mark.parametrize(
    "codec", [codec for codec in damage.CODECS if codec.startswith("jpeg") and "2000" not in codec]
)
@given(st.floats(0.1, 0.97), st.sampled_from([None, 60, 120]))
@settings(max_examples=15)
def test_no_jpeg_that_was_cut_and_closed_is_taken(codec: str, share: float, side: int | None) -> None:
    whole = WHOLE[codec]
    start = whole.find(b"\xff\xda") + 14
    with pytest.raises(ImageError):
        images.decode(whole[: start + int(share * (len(whole) - start))] + b"\xff\xd9", side)


@pytest.mark.parametrize("codec", [codec for codec in damage.CODECS if codec.startswith("png")])
@given(st.data())
@settings(max_examples=25)
def test_no_changed_byte_of_a_png_goes_unseen(codec: str, data: st.DataObject) -> None:
    changed = bytearray(WHOLE[codec])
    changed[data.draw(st.integers(8, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ImageError):
        images.decode(bytes(changed))


def test_a_png_without_the_end_of_its_stream_is_refused_though_every_pixel_is_there() -> None:
    chunks = list(damage.read_chunks(WHOLE["png in chunks"]))
    last = max(n for n, (name, _) in enumerate(chunks) if name == b"IDAT")
    chunks[last] = (b"IDAT", chunks[last][1][:-4])
    short = WHOLE["png in chunks"][:8] + b"".join(damage.png_chunk(*chunk) for chunk in chunks)
    assert np.array(Image.open(io.BytesIO(short))).shape == FEW["coffee"].shape
    with pytest.raises(ImageError, match="ends early"):
        images.decode(short)


def test_a_table_of_another_scan_inside_a_scan_is_refused_at_every_size() -> None:
    whole = WHOLE["jpeg 4:2:0"]
    table = b"\xff\xc4" + (19 + 3).to_bytes(2, "big") + b"\x00" + bytes([0, 3] + [0] * 14) + b"\1\2\3"
    middle = len(whole) // 2
    for side in (None, 120, 60, 30):
        with pytest.raises(ImageError):
            images.decode(whole[:middle] + table + whole[middle:], side)


def test_the_reason_is_the_decoders_and_stderr_stays_empty(tmp_path: Path) -> None:
    """In a process of its own, whose stderr is the decoders', too."""
    rng = np.random.default_rng(3)
    for number, codec in enumerate(["jpeg 4:2:0", "tiff deflate", "tiff lzw", "tiff jpeg", "png", "webp", "gif"]):
        (tmp_path / f"{number}").write_bytes(damage.written_over(WHOLE[codec], rng))
        (tmp_path / f"{number}-cut").write_bytes(damage.cut(WHOLE[codec], rng))
    program = (
        "import sys, pathlib\n"
        "from ugaf.imaging import images\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "    try: images.decode(path.read_bytes())\n"
        "    except images.ImageError as error: print(path.name, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    reasons = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert "truncated or corrupt" in reasons["0-cut"]
    assert "not yet in table" in reasons["2"]  # libtiff's words
    assert {"0-cut", "1-cut", "2-cut", "3-cut", "4-cut", "5-cut", "6-cut"} <= reasons.keys()


def test_zeros_that_a_flat_picture_needs_are_no_damage() -> None:
    flat = np.full((1600, 1600, 3), 255, np.uint8)
    flat[:40] = np.arange(40, dtype=np.uint8)[:, None, None]
    for codec in ("webp", "webp lossless", "jpeg optimised", "jpeg progressive", "png", "tiff deflate", "avif"):
        if codec in damage.CODECS:
            assert images.decode(damage.CODECS[codec](flat)).shape == flat.shape


@pytest.mark.parametrize("place", ["start", "end"])
def test_a_tiff_whose_jpeg_declares_more_pixels_than_it_is_refused_unread(place: str) -> None:
    out = io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(out, "TIFF", compression="jpeg")
    data = bytearray(out.getvalue())
    header = data.find(b"\xff\xc0") if place == "start" else data.rfind(b"\xff\xc0")
    data[header + 5 : header + 9] = (65_000).to_bytes(2, "big") * 2
    with pytest.raises(images.ImageError, match="decompression bomb"):
        images.decode(bytes(data))


@given(st.binary(max_size=40))
def test_the_counts_of_a_damaged_avif_are_not_believed(rest: bytes) -> None:
    def box(name: bytes, content: bytes) -> bytes:
        return (8 + len(content)).to_bytes(4, "big") + name + content

    info = box(b"infe", b"\2\0\0\0" + b"\0\1\0\0" + b"av01\0")
    places = box(b"iloc", b"\2\0\0\0" + b"\x44\0" + b"\xff\xff\xff\xff" + rest)
    with pytest.raises(integrity.DamageError, match="iloc"):
        integrity.av1_extents(bytes(4) + box(b"iinf", bytes(4) + b"\0\1" + info) + places)


def progressive(rgb: np.ndarray, by: str, mode: str, quality: int, subsampling: int) -> bytes:
    if by == "cv2":
        pixels = rgb if mode == "RGB" else rgb[..., 0]
        options = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_QUALITY, quality]
        return bytes(cv2.imencode(".jpg", pixels, options)[1])
    out = io.BytesIO()
    image = Image.fromarray(rgb).convert(mode)
    image.save(out, "JPEG", quality=quality, progressive=True, subsampling=0 if mode == "CMYK" else subsampling)
    return out.getvalue()


def scans_of(data: bytes) -> list[bytes]:
    """What stands before the first scan, each scan with the tables before it, and the end."""
    parts, start, position, seen = [], 0, 2, False
    while found := re.compile(rb"\xff[^\x00\xff\xd0-\xd7]").search(data, position):
        marker = data[found.start() + 1]
        if marker == 0xD9 or (marker in (0xC4, 0xDA) and not seen):
            parts.append(data[start : found.start()])
            start, seen = found.start(), True
        if marker == 0xD9:
            return [*parts, data[start:]]
        if marker == 0xDA:
            seen = False
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    raise AssertionError("no end")


@given(
    st.sampled_from(["noise", "flat", "ramp"]),
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.sampled_from(["pillow", "cv2"]),
    st.sampled_from(["RGB", "L", "CMYK"]),
    st.integers(1, 100),
    st.integers(0, 2),
    st.data(),
)
@settings(max_examples=80, deadline=None)
def test_a_progressive_jpeg_is_taken_with_all_of_its_scans_alone(
    content: str, size: tuple[int, int], by: str, mode: str, quality: int, subsampling: int, data: st.DataObject
) -> None:
    rgb = np.full((*size, 3), 90, np.uint8)
    if content == "noise":
        rgb = np.random.default_rng(quality).integers(0, 256, rgb.shape, dtype=np.uint8)
    elif content == "ramp":
        rgb = (rgb + np.arange(size[1])[None, :, None]).astype(np.uint8)
    whole = progressive(rgb, by, mode, quality, subsampling)
    images.decode(whole)
    head, *scans, end = scans_of(whole)
    assert b"".join([head, *scans, end]) == whole
    assert len(scans) > 1
    kept = data.draw(st.integers(1, len(scans) - 1))
    for some in (scans[:kept], scans[:kept] + scans[kept + 1 :]):
        with pytest.raises(ImageError):
            images.decode(head + b"".join(some) + end)


def test_a_sequential_jpeg_without_the_scan_of_a_component_is_refused() -> None:
    whole = WHOLE["jpeg"] if "jpeg" in WHOLE else damage.pillow("JPEG", quality=85)(FEW["coffee"])
    assert jpeg_scans.unsent(whole) is None
    start = whole.find(b"\xff\xda")
    assert whole[start + 4] == 3
    for count in (1, 2):
        ids = [whole[start + 5 + 2 * n : start + 7 + 2 * n] for n in range(count)]
        header = bytes([0xFF, 0xDA, 0, 6 + 2 * count, count]) + b"".join(ids) + b"\0\x3f\0"
        assert jpeg_scans.unsent(whole[:start] + header + b"\x12" * 50 + b"\xff\xd9") == 1
