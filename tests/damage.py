"""Thousands of damaged pictures, held against strict readers: of what they refuse, `images.decode` may take none.

Seven photographs, every codec that is read, every kind of damage that transfers, disks and careless tools do. The
judges are a strict libjpeg-turbo, the walk through a PNG's chunks and zlib stream below and, where pyvips is installed,
libvips with its warnings as errors. A file that they take may be taken: what that costs in wrong pixels is printed.

    python tests/damage.py [--seeds N]     the whole count; exit code 1 if a refused file is taken or a sound one is not
"""

from __future__ import annotations

import argparse
import io
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image, features

from ugaf.imaging import images

Encoder = Callable[[np.ndarray], bytes]
Damage = Callable[[bytes, np.random.Generator], bytes | None]
"""The damaged file, or None where the kind means nothing for it."""

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "immunohistochemistry", "hubble_deep_field", "motorcycle")
SPAN = 512
"""Bytes that are lost, zeroed or written over at once: a disk's sector."""


def photograph(name: str, side: int = 400) -> np.ndarray:
    """RGB uint8, the longer side at most `side`."""
    from skimage import data

    rgb = data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)()
    height, width = rgb.shape[:2]
    return cv2.resize(rgb, images.fit(width, height, side), interpolation=cv2.INTER_AREA)


# -- codecs -----------------------------------------------------------------------------------------------------------


def pillow(format: str, mode: str = "RGB", **options: Any) -> Encoder:
    def save(rgb: np.ndarray) -> bytes:
        out = io.BytesIO()
        Image.fromarray(rgb).convert(mode).save(out, format, **options)
        return out.getvalue()

    return save


def palette_png(rgb: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(rgb).quantize(128).save(out, "PNG")
    return out.getvalue()


def png_of_16_bits(rgb: np.ndarray) -> bytes:
    return cv2.imencode(".png", rgb[..., ::-1].astype(np.uint16) * 257)[1].tobytes()


def grey_png_of_16_bits(rgb: np.ndarray) -> bytes:
    return cv2.imencode(".png", rgb[..., 1].astype(np.uint16) * 257)[1].tobytes()


ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def interlaced_png(rgb: np.ndarray) -> bytes:
    passes = [rgb[y::dy, x::dx] for x, y, dx, dy in ADAM7]
    return png_of_rows(rgb, b"".join(b"\0" + row.tobytes() for p in passes if p.size for row in p), interlace=1)


def many_chunk_png(rgb: np.ndarray) -> bytes:
    return png_of_rows(rgb, b"".join(b"\0" + row.tobytes() for row in rgb), chunk=4096)


def png_of_rows(rgb: np.ndarray, rows: bytes, interlace: int = 0, chunk: int = 1 << 30) -> bytes:
    packed = zlib.compress(rows)
    header = struct.pack(">IIBBBBB", rgb.shape[1], rgb.shape[0], 8, 2, 0, 0, interlace)
    data = [png_chunk(b"IDAT", packed[at : at + chunk]) for at in range(0, len(packed), chunk)]
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + b"".join(data) + png_chunk(b"IEND", b"")


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


CODECS: dict[str, Encoder] = {
    "jpeg 4:2:0": pillow("JPEG", quality=85),
    "jpeg 4:4:4": pillow("JPEG", quality=95, subsampling=0),
    "jpeg optimised": pillow("JPEG", quality=75, optimize=True),
    "jpeg progressive": pillow("JPEG", quality=85, progressive=True),
    "jpeg restarts": pillow("JPEG", quality=85, restart_marker_rows=2),
    "jpeg grey": pillow("JPEG", "L", quality=85),
    "jpeg cmyk": pillow("JPEG", "CMYK", quality=85),
    "png": pillow("PNG"),
    "png grey": pillow("PNG", "L"),
    "png alpha": pillow("PNG", "RGBA"),
    "png palette": palette_png,
    "png 16 bits": png_of_16_bits,
    "png grey 16 bits": grey_png_of_16_bits,
    "png interlaced": interlaced_png,
    "png in chunks": many_chunk_png,
    "webp": pillow("WEBP", quality=85),
    "webp lossless": pillow("WEBP", lossless=True),
    "tiff": pillow("TIFF"),
    "tiff deflate": pillow("TIFF", compression="tiff_deflate"),
    "tiff lzw": pillow("TIFF", compression="tiff_lzw"),
    "tiff jpeg": pillow("TIFF", compression="jpeg"),
    "gif": pillow("GIF"),
    "bmp": pillow("BMP"),
    "jpeg 2000": pillow("JPEG2000"),
}
if features.check("avif"):
    CODECS["avif"] = pillow("AVIF", quality=80)


# -- kinds of damage --------------------------------------------------------------------------------------------------


def inside(data: bytes, rng: np.random.Generator, span: int = 0) -> int:
    """A place behind the header, before the last `span` bytes."""
    start = data.find(b"\xff\xda") + 14 if data.startswith(b"\xff\xd8") else min(700, len(data) // 4)
    return int(rng.integers(start, max(start + 1, len(data) - span - 16)))


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: inside(data, rng)]


def cut_by_a_few(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: -int(rng.integers(3, 40))]


def lost(data: bytes, rng: np.random.Generator) -> bytes:
    at = inside(data, rng, SPAN)
    return data[:at] + data[at + SPAN :]


def zeroed(data: bytes, rng: np.random.Generator) -> bytes:
    at = inside(data, rng, SPAN)
    return data[:at] + bytes(SPAN) + data[at + SPAN :]


def zero_tail(data: bytes, rng: np.random.Generator) -> bytes:
    at = inside(data, rng)
    return data[:at] + bytes(len(data) - at)


def short_zero_tail(data: bytes, rng: np.random.Generator) -> bytes:
    count = max(64, int(len(data) * rng.uniform(0.01, 0.08)))
    return data[:-count] + bytes(count)


def written_over(data: bytes, rng: np.random.Generator) -> bytes:
    at = inside(data, rng, SPAN)
    return data[:at] + rng.bytes(SPAN) + data[at + SPAN :]


def one_bit(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    changed[inside(data, rng)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def bits(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(20):
        changed[inside(data, rng)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def swapped(data: bytes, rng: np.random.Generator) -> bytes | None:
    at = inside(data, rng, 2 * SPAN)
    if len(data) < at + 2 * SPAN:
        return None
    return data[:at] + data[at + SPAN : at + 2 * SPAN] + data[at : at + SPAN] + data[at + 2 * SPAN :]


def of_jpeg(make: Damage) -> Damage:
    return lambda data, rng: make(data, rng) if data.startswith(b"\xff\xd8") else None


def cut_and_closed(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: inside(data, rng)] + b"\xff\xd9"


def cut_zeros_closed(data: bytes, rng: np.random.Generator) -> bytes:
    at = inside(data, rng)
    return data[:at] + bytes(len(data) - at - 2) + b"\xff\xd9"


def segment_inside(marker: int) -> Damage:
    """A DHT or SOS segment of the file itself put into its scan."""

    def put(data: bytes, rng: np.random.Generator) -> bytes | None:
        start = data.find(bytes((0xFF, marker)))
        if start == -1:
            return None
        segment = data[start : start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")]
        at = inside(data, rng)
        return data[:at] + segment + data[at:]

    return put


def of_png(make: Damage) -> Damage:
    return lambda data, rng: make(data, rng) if data.startswith(b"\x89PNG") else None


def with_right_checksums(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes of the compressed data changed, and every CRC made anew: only the stream's own end tells."""
    chunks = list(read_chunks(data))
    at = int(rng.choice([n for n, (name, _) in enumerate(chunks) if name == b"IDAT"]))
    body = bytearray(chunks[at][1])
    if rng.random() < 0.5:
        body = body[: -int(rng.integers(1, min(300, len(body))))]
    else:
        body[int(rng.integers(2, len(body)))] ^= 1 << int(rng.integers(8))
    chunks[at] = (b"IDAT", bytes(body))
    return data[:8] + b"".join(png_chunk(name, content) for name, content in chunks)


DAMAGES: dict[str, Damage] = {
    "cut": cut,
    "cut by a few bytes": cut_by_a_few,
    "512 bytes lost": lost,
    "512 bytes zeroed": zeroed,
    "zero tail": zero_tail,
    "short zero tail": short_zero_tail,
    "512 bytes of noise": written_over,
    "one bit": one_bit,
    "20 bits": bits,
    "512 bytes swapped": swapped,
    "cut, EOI": of_jpeg(cut_and_closed),
    "cut, zeros, EOI": of_jpeg(cut_zeros_closed),
    "DHT in the scan": of_jpeg(segment_inside(0xC4)),
    "SOS in the scan": of_jpeg(segment_inside(0xDA)),
    "checksums made anew": of_png(with_right_checksums),
}


# -- strict readers ---------------------------------------------------------------------------------------------------


def read_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a PNG; ValueError where one is cut or its CRC is wrong."""
    stream = io.BytesIO(data[8:])
    while True:
        head = stream.read(8)
        if len(head) < 8:
            raise ValueError("no IEND")
        length, name = struct.unpack(">I4s", head)
        content, crc = stream.read(length), stream.read(4)
        if len(content) != length or crc != struct.pack(">I", zlib.crc32(name + content)):
            raise ValueError(f"chunk {name!r}")
        yield name, content
        if name == b"IEND":
            return


def strict_png_refuses(data: bytes) -> bool:
    try:
        zlib.decompress(b"".join(content for name, content in read_chunks(data) if name == b"IDAT"))
    except (ValueError, zlib.error):
        return True
    return False


def strict_jpeg_refuses(data: bytes) -> bool:
    import simplejpeg

    try:
        colours = simplejpeg.decode_jpeg_header(data, strict=True)[2]
        simplejpeg.decode_jpeg(data, "CMYK" if colours in ("CMYK", "YCCK") else "RGB", strict=True)
    except ValueError:
        return True
    return False


def vips_refuses(data: bytes) -> bool:
    import pyvips

    try:
        pyvips.Image.new_from_buffer(data, "", fail_on="warning", access="sequential").write_to_memory()
    except pyvips.Error:
        return True
    return False


NOT_FOR_VIPS = ("bmp", "jpeg 2000", "avif")
"""pyvips's wheels read none of these, damaged or not."""


def has_vips() -> bool:
    try:
        import pyvips  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


def refused_by_strict(data: bytes, codec: str, vips: bool) -> bool:
    """Whether a strict reader refuses the file; formats without one only by libvips."""
    found = vips and codec not in NOT_FOR_VIPS and vips_refuses(data)
    if codec.startswith("jpeg") and codec != "jpeg 2000":
        return found or strict_jpeg_refuses(data)
    return found or (codec.startswith("png") and strict_png_refuses(data))


# -- the count --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    codec: str
    damage: str
    data: bytes
    whole: bytes


def damaged(photos: dict[str, np.ndarray], seeds: int) -> Iterator[Case]:
    """Every photograph in every codec with every kind of damage, `seeds` times."""
    for name, rgb in photos.items():
        for codec, encode in CODECS.items():
            whole = encode(rgb)
            for damage, make in DAMAGES.items():
                for seed in range(seeds):
                    key = zlib.crc32(f"{name}/{codec}/{damage}/{seed}".encode())
                    data = make(whole, np.random.default_rng(key))
                    if data is not None and data != whole:
                        yield Case(codec, damage, data, whole)


def taken(data: bytes) -> np.ndarray | None:
    try:
        return images.decode(data)
    except images.ImageError:
        return None


def wrong_share(case: Case, pixels: np.ndarray) -> float:
    """Share of pixels that are more than 8 levels from those of the whole file."""
    right = images.decode(case.whole)
    if right.shape != pixels.shape:
        return 1.0
    return float((np.abs(right.astype(int) - pixels).max(axis=2) > 8).mean())


def sound(photos: dict[str, np.ndarray]) -> Iterator[tuple[str, bytes]]:
    """Whole files, over 200 with seven photographs: each in every codec, and some of other qualities and shapes."""
    for rgb in photos.values():
        for codec, encode in CODECS.items():
            yield codec, encode(rgb)
        flat = rgb.copy()
        flat[flat.shape[0] // 3 :] = flat[0, 0]
        plain = np.full_like(rgb, rgb[0, 0])
        for quality in (20, 100):
            yield "jpeg", pillow("JPEG", quality=quality, progressive=quality == 20)(rgb[:-3, :-5])
            yield "webp", pillow("WEBP", quality=quality)(flat)
        yield "jpeg", pillow("JPEG", quality=90, optimize=True)(flat) + b"\0" * 600
        for codec in ("webp", "webp lossless", "avif", "png in chunks", "jpeg optimised", "tiff deflate", "jpeg 2000"):
            if codec in CODECS:
                yield codec, CODECS[codec](flat)
                yield codec, CODECS[codec](plain.repeat(3, axis=0).repeat(3, axis=1))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2, help="times each kind of damage is done to each file")
    seeds = parser.parse_args().seeds
    vips = has_vips()
    photos = {name: photograph(name) for name in PHOTOS}
    counts: dict[str, Counter[str]] = {codec: Counter() for codec in CODECS}
    missed: Counter[str] = Counter()
    for case in damaged(photos, seeds):
        pixels, refused = taken(case.data), refused_by_strict(case.data, case.codec, vips)
        count = counts[case.codec]
        count["files"] += 1
        count["refused by the strict reader"] += refused
        count["taken"] += pixels is not None
        if pixels is not None:
            count["taken, over 2 % wrong"] += wrong_share(case, pixels) > 0.02
        if refused and pixels is not None:
            count["TAKEN THOUGH REFUSED"] += 1
            missed[f"{case.codec}: {case.damage}"] += 1
    print(f"judge: {'libvips, warnings as errors, and ' if vips else ''}libjpeg-turbo (strict), chunks and zlib of PNG")
    names = ("files", "refused by the strict reader", "taken", "taken, over 2 % wrong", "TAKEN THOUGH REFUSED")
    print(f"{'':18}" + "".join(f"{name:>30}" for name in names))
    for codec, count in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        print(f"{codec:18}" + "".join(f"{count[name]:30}" for name in names))
    whole = [(codec, taken(data) is not None) for codec, data in sound(photos)]
    refused_sound = Counter(codec for codec, ok in whole if not ok)
    print(f"sound files: {len(whole)}, refused: {sum(refused_sound.values())} {dict(refused_sound) or ''}")
    for kind, number in missed.items():
        print(f"taken though refused: {kind}: {number}")
    return 1 if missed or refused_sound else 0


if __name__ == "__main__":
    sys.exit(main())
