"""Was an image file read to its end? One answer for every format: nothing, or `DamageError`.

Decoders return pixels for files that are not whole: libjpeg fills what is missing with grey and only warns, Pillow
stops a PNG at its last row without a look at the checksums, WebP and AV1 go on decoding zeros. So every format is
held to what it lets one check:

- JPEG: libjpeg-turbo's warnings are errors, whatever they say. Besides, a run of zeros that no encoder writes, and
  scans that do not send all of the picture.
- PNG: the CRC of every chunk, the zlib stream to its own end and checksum, all rows, and IEND.
- WebP, AVIF: all bytes that the file announces; no end of zeros that the picture does not need.
- GIF: every block to the trailer. TIFF: every strip within the file, JPEG in it as above. JPEG 2000: its last marker.

BMP and PPM have no checksum and no end: a part overwritten by zeros is a black area, and nothing can tell.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from ugaf.imaging import jpeg_scans

MAX_PIXELS = 178_956_970
"""Images of more pixels are refused unread (Pillow's own decompression-bomb limit: 0.25 GB as grey, 0.5 GB as RGB8)."""

ZEROS = 64
"""Zeros in a row that end a search in compressed data: 512 bits, over two blocks of a photograph at the least."""

TAIL = 16
"""Zeros at the end of compressed data that make it suspect."""


AV1_ZEROS = 32
"""Zeros in a row that AV1 data never has: at most 3 were seen, in flat pictures, ramps, stripes and photographs."""


class DamageError(Exception):
    """What is wrong with a file's bytes."""


def check(data: bytes, format: str, image: Image.Image | None = None) -> None:
    """Raise DamageError where a file is not whole, as far as its format tells. Nothing for formats that tell nothing.

    Args:
        format: Pillow's name. RGB and grey JPEGs are checked where they are decoded, by `read_jpeg`.
        image: the opened file, for what Pillow already read of its header (TIFF).
    """
    if format in ("JPEG", "MPO"):
        read_jpeg(data, colours="CMYK")
    elif format == "TIFF" and image is not None:
        _check_tiff(data, image)
    elif format in _CHECKS:
        try:
            _CHECKS[format](data)
        except (IndexError, struct.error) as error:
            raise DamageError("it ends inside a header") from error


# -- JPEG -------------------------------------------------------------------------------------------------------------


def read_jpeg(data: bytes, size: tuple[int, int] | None = None, scale: int = 1, colours: str = "RGB") -> np.ndarray:
    """Decode a JPEG to its end: uint8 (height / scale, width / scale, 3), both rounded up, not rotated.

    The pixels are those of Pillow, whose libjpeg-turbo does the same, without its copies of them.
    Raises DamageError where libjpeg warns or gives up.

    Args:
        size: (width, height) as Pillow read it in the header.
        scale: 1, 2, 4 or 8: decode at that fraction.
        colours: "RGB" (grey becomes RGB), or "CMYK" for such files.
    """
    smallest = {}
    try:
        height, width = simplejpeg.decode_jpeg_header(data, strict=False)[:2]
    except ValueError as error:
        raise DamageError(f"truncated or corrupt: {error}") from error
    if height * width > MAX_PIXELS:  # a strip of a small TIFF may declare them
        raise DamageError(f"decompression bomb: a JPEG of {width} x {height} pixels in it")
    if scale > 1 and size is not None:
        smallest = {"min_width": -(-size[0] // scale), "min_height": -(-size[1] // scale)}
    try:
        pixels = simplejpeg.decode_jpeg(data, colours, strict=True, **smallest)
    except ValueError as error:
        raise DamageError(f"truncated or corrupt: {error}") from error
    if size is not None and pixels.shape[:2] != (-(-size[1] // scale), -(-size[0] // scale)):
        raise DamageError(
            f"its headers disagree on its size: {size[0]} x {size[1]}, or {pixels.shape[1]} x {pixels.shape[0]}"
        )
    if _has_impossible_zeros(data):
        raise DamageError(f"{ZEROS} zero bytes in a row inside the scan, which no encoder writes")
    scans = jpeg_scans.unsent(data)
    if scans is not None:
        raise DamageError(f"truncated: it ends after scan {scans}, and its scans do not send all of the picture")
    return pixels


def _has_impossible_zeros(data: bytes) -> bool:
    """Whether a sequential scan has a run of zeros in which a block of luma would be 63 equal coefficients.

    Where the shortest code ends a block (in the tables of a flat picture), zeros are a flat area, and prove nothing;
    neither do they in a progressive file.
    """
    sequential, luma, position = False, -1, 2
    first_symbols: dict[int, int] = {}
    while position + 4 < len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        body = data[position + 4 : position + 2 + length]
        if marker in (0xC0, 0xC1):
            sequential, luma = True, body[5] if len(body) > 5 else -1
        elif marker == 0xC4:
            first_symbols |= _first_symbols(body)
        elif marker == 0xDA:
            count = body[0] if body else 0
            whole = sequential and luma == count and len(body) > 2
            if not whole or first_symbols.get(0x10 | (body[2] & 15), 0) == 0:
                return False
            start = position + 2 + length
            zeros = data.find(bytes(ZEROS), start)
            return zeros != -1 and zeros < data.find(b"\xff\xd9", start)
        position += 2 + length
    return False


def _first_symbols(body: bytes) -> dict[int, int]:
    """Of a DHT segment: class and number of each table -> the symbol of its code of zeros."""
    found, position = {}, 0
    while position + 17 < len(body):
        found[body[position]] = body[position + 17]
        position += 17 + sum(body[position + 1 : position + 17])
    return found


# -- PNG --------------------------------------------------------------------------------------------------------------

PNG_START = b"\x89PNG\r\n\x1a\n"


def png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, bool]]:
    """(name, content, whether its CRC is right) of a PNG's chunks, to IEND. Raises DamageError where it ends before."""
    view, position = memoryview(data), len(PNG_START)
    while True:
        name = bytes(view[position + 4 : position + 8])
        end = position + 8 + int.from_bytes(view[position : position + 4], "big")
        if len(name) < 4 or end + 4 > len(data):
            raise DamageError(f"it ends inside a chunk {name!r}" if len(name) == 4 else "it ends before its IEND chunk")
        right = zlib.crc32(view[position + 4 : end]) == int.from_bytes(view[end : end + 4], "big")
        yield name, view[position + 8 : end], right
        if name == b"IEND":
            return
        position = end + 4


def _check_png(data: bytes) -> None:
    inflater, size, wanted = zlib.decompressobj(), 0, 0
    for name, content, right in png_chunks(data):
        if not right:
            raise DamageError(f"the checksum of its chunk {name!r} is wrong")
        if name == b"IHDR":
            wanted = _png_size(content)
        elif name == b"IDAT":
            size += _inflated(inflater, content)
    if not inflater.eof:
        raise DamageError("its compressed data ends early")
    if size < wanted:
        raise DamageError(f"it holds {size} of {wanted} bytes of pixels")


def _inflated(inflater: Any, content: bytes | memoryview) -> int:
    """How many bytes these become; what is made of them at once is bounded, and what follows the stream is left."""
    size = 0
    try:
        while len(content) and not inflater.eof:
            size += len(inflater.decompress(content, 1 << 20))
            content = inflater.unconsumed_tail
    except zlib.error as error:
        raise DamageError(f"its compressed data is damaged: {error}") from error
    return size


def _png_size(header: memoryview) -> int:
    """Bytes of all filtered rows of a PNG, by its IHDR."""
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", header)
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 0)
    if not interlace:
        return height * (1 + -(-width * bits // 8))
    total = 0
    for x, y, dx, dy in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        columns, rows = -(-(width - x) // dx), -(-(height - y) // dy)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits // 8))
    return total


# -- WebP, AVIF -------------------------------------------------------------------------------------------------------


def _check_webp(data: bytes) -> None:
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise DamageError(f"it has {len(data)} bytes and announces {end}")
    position = 12
    while position + 8 <= end:
        name, length = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if position + 8 + length > end:
            raise DamageError(f"it ends inside its chunk {name!r}")
        if name in (b"VP8 ", b"VP8L"):
            _check_webp_tail(data[position : position + 8 + length])
            return
        position += 8 + length + length % 2


def _check_webp_tail(chunk: bytes) -> None:
    """A picture that decodes as well without some of the zeros at its end did not come to its end with them.

    Flat areas may end in zeros, but decoders need each of these bytes, give or take what they read ahead.
    """
    zeros = _zeros_at_end(chunk[8:])
    if zeros < TAIL:
        return
    shorter = chunk[8:-TAIL]
    chunks = chunk[:4] + len(shorter).to_bytes(4, "little") + shorter + bytes(len(shorter) % 2)
    file = b"RIFF" + (4 + len(chunks)).to_bytes(4, "little") + b"WEBP" + chunks
    try:
        with Image.open(io.BytesIO(file), formats=["WEBP"]) as image:
            image.load()
    except Exception:  # as it should be: each of its bytes is needed
        return
    raise DamageError(f"its compressed data ends in {zeros} zero bytes that the picture does not need")


def _check_avif(data: bytes) -> None:
    """AV1's coder writes no runs of zeros, not even for a flat picture; EXIF in the same box may have them."""
    meta = next((content for name, content in _boxes(data) if name == b"meta"), memoryview(b""))
    for start, end in av1_extents(bytes(meta)):
        if end > len(data):
            raise DamageError(f"it has {len(data)} bytes and announces {end}")
        if data.find(bytes(AV1_ZEROS), start, end) != -1:
            raise DamageError(f"{AV1_ZEROS} zero bytes in a row in its compressed data, which no encoder writes")


def av1_extents(meta: bytes) -> list[tuple[int, int]]:
    """(start, end) in the file of the AV1 pictures that an AVIF's meta box names (ISO/IEC 14496-12, infe and iloc)."""
    boxes = dict(_boxes(meta[4:]))
    infos, places = bytes(boxes.get(b"iinf", b"")), bytes(boxes.get(b"iloc", b""))
    pictures = set()
    for name, info in _boxes(infos[6 if infos[:1] == b"\0" else 8 :]):
        wide = 4 if info[0] == 3 else 2
        if name == b"infe" and info[0] >= 2 and bytes(info[6 + wide : 10 + wide]) == b"av01":
            pictures.add(int.from_bytes(info[4 : 4 + wide], "big"))
    return [extent for item, extent in _extents(places) if item in pictures] if pictures else []


def _extents(iloc: bytes) -> Iterator[tuple[int, tuple[int, int]]]:
    """(item, (start, end)) of the extents of an iloc box that lie in the file itself, not in another box."""
    stream = io.BytesIO(iloc)

    def number(width: int) -> int:
        read = stream.read(width)
        if len(read) < width:  # its count of items may be anything
            raise DamageError("it ends inside its box b'iloc'")
        return int.from_bytes(read, "big")

    version = number(4) >> 24
    sizes = number(2)
    offsets, lengths, bases, indices = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15, sizes & 15 if version else 0
    for _ in range(number(4 if version == 2 else 2)):
        item = number(4 if version == 2 else 2)
        method = number(2) & 15 if version else 0
        number(2)
        base = number(bases)
        for _ in range(number(2)):
            number(indices)
            start = base + number(offsets)
            extent = start, start + number(lengths)
            if method == 0:
                yield item, extent


def _boxes(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """(name, content) of the boxes of an ISO base media file, from the outermost."""
    view, position = memoryview(data), 0
    while position < len(data):
        length, head = int.from_bytes(view[position : position + 4], "big"), 8
        if length == 1:
            length, head = int.from_bytes(view[position + 8 : position + 16], "big"), 16
        elif length == 0:
            length = len(data) - position
        name = bytes(view[position + 4 : position + 8])
        if length < head or position + length > len(data):
            raise DamageError(f"it ends inside its box {name!r}")
        yield name, view[position + head : position + length]
        position += length


def _zeros_at_end(data: bytes | memoryview) -> int:
    end = bytes(data[-(1 << 16) :])
    return len(end) - len(end.rstrip(b"\0"))


# -- others -----------------------------------------------------------------------------------------------------------


def _check_gif(data: bytes) -> None:
    position = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    while data[position] != 0x3B:
        kind = data[position]
        if kind == 0x21:
            position += 2
        elif kind == 0x2C:
            flags = data[position + 9]
            position += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
        else:
            raise DamageError(f"it has {kind:#04x} where a block should begin")
        while length := data[position]:
            position += 1 + length
        position += 1


def _check_jpeg2000(data: bytes) -> None:
    codestream: bytes | memoryview = data
    if not data.startswith(b"\xff\x4f"):
        codestream = next((content for name, content in _boxes(data) if name == b"jp2c"), b"")
    if bytes(codestream[-2:]) != b"\xff\xd9":
        raise DamageError("its code stream ends without an end marker")


def _check_tiff(data: bytes, image: Image.Image) -> None:
    """Every strip or tile lies in the file; those that are JPEGs or zlib streams are decoded to their end."""
    tags: Any = getattr(image, "tag_v2", {})
    offsets, lengths = (tags.get(273), tags.get(279)) if 273 in tags else (tags.get(324), tags.get(325))
    if not isinstance(offsets, tuple) or not isinstance(lengths, tuple):
        return
    tables = tags.get(347)
    for offset, length in zip(offsets, lengths, strict=False):
        if offset + length > len(data):
            raise DamageError(f"a strip of {length} bytes at {offset} is not in the file of {len(data)} bytes")
        if tags.get(259) == 7:
            strip = data[offset : offset + length]
            if isinstance(tables, bytes) and tables.endswith(b"\xff\xd9"):
                strip = tables[:-2] + strip[2:]
            read_jpeg(strip, colours="CMYK" if tags.get(262) == 5 else "RGB")
        elif tags.get(259) in (8, 32946):
            inflater = zlib.decompressobj()
            _inflated(inflater, memoryview(data)[offset : offset + length])
            if not inflater.eof:
                raise DamageError("a strip's compressed data ends early")


_CHECKS: dict[str, Callable[[bytes], None]] = {
    "PNG": _check_png,
    "WEBP": _check_webp,
    "AVIF": _check_avif,
    "GIF": _check_gif,
    "JPEG2000": _check_jpeg2000,
}
