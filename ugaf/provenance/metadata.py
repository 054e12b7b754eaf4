"""What an image file says about itself beside its pixels: EXIF, XMP, IPTC, comments, PNG texts, C2PA manifests.

Nothing is decoded. The containers are walked by their own lengths, every step is bounded, and what is damaged or
truncated is left out: metadata never makes a photograph fail, and a hostile file costs no more than a large one.

Sources: ITU-T T.81 annex B (JPEG), Exif 2.32, TIFF 6.0, PNG 3rd edition, RIFF (WebP container), ISO/IEC 14496-12
(boxes), XMP part 3, IPTC-IIM 4.2, C2PA 2.1 annex A (where each format keeps its manifest).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

BLOCKS = 50_000
"""Segments, chunks or boxes of a file that are looked at."""
TEXT_BYTES = 1 << 20
"""Of one text, unpacked."""
PAYLOAD_BYTES = 8 << 20
"""Of metadata that are kept from one file; a C2PA manifest with its thumbnails takes about 1 MB."""

EXIF_TAGS = {
    0x010E: "ImageDescription",
    0x010F: "Make",
    0x0110: "Model",
    0x0131: "Software",
    0x013B: "Artist",
    0x9286: "UserComment",
}
IPTC_DATASETS = {65: "OriginatingProgram", 80: "By-line", 110: "Credit", 115: "Source"}
_TIFF_XMP, _TIFF_IPTC, _TIFF_EXIF_IFD, _TIFF_C2PA = 0x02BC, 0x83BB, 0x8769, 0xCD41
_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 6: 1, 7: 1, 13: 4}
_C2PA_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_XMP_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")


@dataclass
class Metadata:
    """What was found.

    Attributes:
        exif: values of `EXIF_TAGS` by name.
        iptc: values of `IPTC_DATASETS` by name (several of one name with "; " between them).
        xmp: the XMP packets as text, one after the other.
        texts: (keyword, text) of PNG text chunks, and ("comment", text) of a JPEG's comments.
        c2pa: the C2PA manifest store (JUMBF boxes), or b"".
    """

    exif: dict[str, str] = field(default_factory=dict)
    iptc: dict[str, str] = field(default_factory=dict)
    xmp: str = ""
    texts: list[tuple[str, str]] = field(default_factory=list)
    c2pa: bytes = b""

    def add_xmp(self, packet: bytes) -> None:
        self.xmp += _text(packet) + "\n"

    def add_exif(self, tiff: bytes) -> None:
        """An EXIF block, or a whole TIFF file: the tags of its first directory and of its Exif directory."""
        for tag, value in _directories(tiff):
            if tag == _TIFF_XMP:
                self.add_xmp(value)
            elif tag == _TIFF_IPTC:
                self.add_iptc(value)
            elif tag == _TIFF_C2PA:
                self.c2pa += value
            elif tag in EXIF_TAGS:
                text = _user_comment(value, tiff[:2]) if tag == 0x9286 else _text(value)
                if text := text.strip(" \0\r\n\t"):
                    self.exif.setdefault(EXIF_TAGS[tag], text)

    def add_iptc(self, block: bytes) -> None:
        """IPTC-IIM records: 0x1C, record, dataset, 16-bit length (longer, extended ones are not read)."""
        at = 0
        for _ in range(BLOCKS):
            if at + 5 > len(block) or block[at] != 0x1C:
                return
            length = int.from_bytes(block[at + 3 : at + 5], "big")
            name = IPTC_DATASETS.get(block[at + 2]) if block[at + 1] == 2 else None
            if name and (text := _text(block[at + 5 : at + 5 + length]).strip(" \0\r\n\t")):
                self.iptc[name] = f"{self.iptc[name]}; {text}" if name in self.iptc else text
            at += 5 + length


def read(data: bytes) -> Metadata:
    """The metadata of a JPEG, PNG, WebP, TIFF, AVIF or JPEG 2000 file; empty for others. Raises nothing."""
    found = Metadata()
    if data[:2] == b"\xff\xd8":
        _read_jpeg(data, found)
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        _read_png(data, found)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        _read_webp(data, found)
    elif data[:4] in (b"II*\0", b"MM\0*"):
        found.add_exif(data)
    elif data[4:8] in (b"ftyp", b"jP  "):
        _read_boxes(data, found)
    return found


def _read_jpeg(data: bytes, found: Metadata) -> None:
    extended: dict[int, bytes] = {}
    manifest: dict[int, bytes] = {}
    for marker, body in _segments(data):
        if marker == 0xE1 and body[:6] == b"Exif\0\0":
            found.add_exif(body[6:])
        elif marker == 0xE1 and body[:29] == b"http://ns.adobe.com/xap/1.0/\0":
            found.add_xmp(body[29:])
        elif marker == 0xE1 and body[:35] == b"http://ns.adobe.com/xmp/extension/\0":
            extended[int.from_bytes(body[71:75], "big")] = body[75:]
        elif marker == 0xEB and body[:2] == b"JP":
            # Pieces of one box, by number; each repeats the box's header (ISO 19566-5, D.2).
            number = int.from_bytes(body[4:8], "big")
            header = 16 if body[8:12] == b"\0\0\0\1" else 8
            manifest[number] = body[8:] if number <= 1 else body[8 + header :]
        elif marker == 0xED and body[:14] == b"Photoshop 3.0\0":
            for number, block in _photoshop(body[14:]):
                if number == 0x0404:
                    found.add_iptc(block)
        elif marker == 0xFE:
            found.texts.append(("comment", _text(body)))
    if extended:
        found.add_xmp(b"".join(extended[offset] for offset in sorted(extended)))
    found.c2pa += b"".join(manifest[number] for number in sorted(manifest))


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, body) of a JPEG's segments before its first scan."""
    at, left = 2, PAYLOAD_BYTES
    for _ in range(BLOCKS):
        if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] == 0xDA:
            return
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in (0xE1, 0xEB, 0xED, 0xFE):
            left -= length
            if left < 0:
                return
            yield marker, data[at + 4 : at + 2 + length]
        at += 2 + max(length, 2)


def _photoshop(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(number, body) of Photoshop's image resource blocks."""
    at = 0
    while data[at : at + 4] == b"8BIM" and at + 12 <= len(data):
        name = 1 + data[at + 6]
        start = at + 6 + name + name % 2
        length = int.from_bytes(data[start : start + 4], "big")
        yield int.from_bytes(data[at + 4 : at + 6], "big"), data[start + 4 : start + 4 + length]
        at = start + 4 + length + length % 2


def _read_png(data: bytes, found: Metadata) -> None:
    at, left = 8, PAYLOAD_BYTES
    for _ in range(BLOCKS):
        kind = data[at + 4 : at + 8]
        if len(kind) < 4 or kind == b"IEND":
            return
        length = int.from_bytes(data[at : at + 4], "big")
        if kind in (b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"caBX"):
            left -= length
            if left < 0:
                return
            _png_chunk(kind, data[at + 8 : at + 8 + length], found)
        at += 12 + length


def _png_chunk(kind: bytes, body: bytes, found: Metadata) -> None:
    if kind == b"eXIf":
        found.add_exif(body)
        return
    if kind == b"caBX":
        found.c2pa += body
        return
    keyword, _, rest = body.partition(b"\0")
    if kind == b"zTXt":
        rest = _unpacked(rest[1:])
    elif kind == b"iTXt":
        packed, rest = rest[:1] == b"\1", rest[2:]
        for _ in range(2):  # the language, and the keyword in it
            rest = rest.partition(b"\0")[2]
        rest = _unpacked(rest) if packed else rest
    if keyword == b"XML:com.adobe.xmp":
        found.add_xmp(rest)
    else:
        found.texts.append((_text(keyword[:80]), _text(rest)))


def _read_webp(data: bytes, found: Metadata) -> None:
    at = 12
    for _ in range(BLOCKS):
        kind = data[at : at + 4]
        if len(kind) < 4:
            return
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        body = data[at + 8 : at + 8 + min(length, PAYLOAD_BYTES)] if kind in (b"EXIF", b"XMP ", b"C2PA") else b""
        if kind == b"EXIF":
            found.add_exif(body.removeprefix(b"Exif\0\0"))
        elif kind == b"XMP ":
            found.add_xmp(body)
        elif kind == b"C2PA":
            found.c2pa += body
        at += 8 + length + length % 2


def _read_boxes(data: bytes, found: Metadata) -> None:
    """AVIF, HEIF, JPEG 2000: boxes of the outermost level; their XMP packet and EXIF block where they stand."""
    for kind, body in boxes(data):
        if kind == b"uuid" and body[:16] == _XMP_UUID:
            found.add_xmp(body[16 : 16 + TEXT_BYTES])
        elif kind == b"uuid" and body[:16] == _C2PA_UUID:
            # FullBox version and flags, a purpose that ends with a zero, and the offset of a Merkle tree.
            purpose, _, rest = body[20 : 20 + PAYLOAD_BYTES].partition(b"\0")
            found.c2pa += rest[8:] if purpose == b"manifest" else b""
        elif kind == b"jumb" and b"c2pa" in body[:64]:
            found.c2pa += struct.pack(">I4s", min(len(body), PAYLOAD_BYTES) + 8, kind) + body[:PAYLOAD_BYTES]
    # Items of a `meta` box stand anywhere in the file; XMP part 1 lets readers search for the packet by its marks.
    if not found.xmp and (start := data.find(b"<x:xmpmeta")) >= 0:
        end = data.find(b"</x:xmpmeta>", start, start + TEXT_BYTES)
        found.add_xmp(data[start : end if end >= 0 else start + TEXT_BYTES])
    for mark in (b"Exif\0\0II*\0", b"Exif\0\0MM\0*"):
        if (start := data.find(mark)) >= 0:
            found.add_exif(data[start + 6 : start + 6 + TEXT_BYTES])


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(type, body) of the boxes that follow each other (ISO/IEC 14496-12, 4.2; JUMBF has the same)."""
    at = 0
    for _ in range(BLOCKS):
        kind = data[at + 4 : at + 8]
        if len(kind) < 4:
            return
        length, header = int.from_bytes(data[at : at + 4], "big"), 8
        if length == 1:
            length, header = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        elif length == 0:
            length = len(data) - at
        if length < header:
            return
        yield kind, data[at + header : at + length]
        at += length


def _directories(tiff: bytes) -> Iterator[tuple[int, bytes]]:
    """(tag, value's bytes) of a TIFF's first directory and of its Exif directory; values of byte-like types only."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return
    pending, left = [struct.unpack_from(order + "I", tiff, 4)[0]], PAYLOAD_BYTES
    for at in pending:
        if at + 2 > len(tiff):
            continue
        count = struct.unpack_from(order + "H", tiff, at)[0]
        for entry in range(at + 2, min(at + 2 + 12 * count, len(tiff) - 11), 12):
            tag, kind, number, offset = struct.unpack_from(order + "HHII", tiff, entry)
            if tag == _TIFF_EXIF_IFD and len(pending) == 1:
                pending.append(offset)
            elif tag in EXIF_TAGS or tag in (_TIFF_XMP, _TIFF_IPTC, _TIFF_C2PA):
                size = number * _TIFF_SIZES.get(kind, 0)
                start = entry + 8 if size <= 4 else offset
                left -= size
                if size and left >= 0:
                    yield tag, tiff[start : start + size]


def _user_comment(value: bytes, order: bytes) -> str:
    """Exif's UserComment: eight bytes name the encoding. UTF-16 is found in either byte order, whatever the file's."""
    code, body = value[:8], value[8 : 8 + TEXT_BYTES]
    if code.startswith(b"UNICODE"):
        high, low = body[0:64:2].count(0), body[1:64:2].count(0)
        big = order == b"MM" if high == low else high > low
        return body.decode("utf-16-be" if big else "utf-16-le", "replace")
    return _text(body if code.startswith((b"ASCII", b"JIS", bytes(8))) else value)


def _unpacked(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, TEXT_BYTES)
    except zlib.error:
        return b""


def _text(data: bytes) -> str:
    """UTF-8, else Latin-1, of at most TEXT_BYTES; XMP in UTF-16 by its byte order mark."""
    data = data[:TEXT_BYTES]
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
