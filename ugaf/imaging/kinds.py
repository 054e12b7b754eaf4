"""What bytes are that are no image which we read, from their first few: for the message, not for reading them."""

from __future__ import annotations

_STARTS = (
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"8BPS", "a Photoshop document (PSD)"),
    (b"II+\0", "BigTIFF"),
    (b"MM\0+", "BigTIFF"),
    (b"IIRO", "a camera's raw file (Olympus)"),
    (b"IIU\0", "a camera's raw file (Panasonic)"),
    (b"FUJIFILMCCD-RAW", "a camera's raw file (Fujifilm)"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"%!PS", "PostScript"),
    (b"%PDF", "PDF"),
    (b"DDS ", "DDS"),
    (b"\0\0\x01\0", "an icon (ICO)"),
    (b"qoif", "QOI"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file that it stands for"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"\x28\xb5\x2f\xfd", "Zstandard data"),
    (b"PAR1", "Parquet"),
)

_BRANDS = {
    "HEIC": (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
    "AVIF": (b"avif", b"avis"),
    "a camera's raw file (Canon CR3)": (b"crx ",),
}


def name_of(data: bytes) -> str | None:
    """ "HEIC", "JPEG XL", "an HTML page", ...; None for what is not known."""
    if data[4:8] == b"ftyp":
        return next(
            (kind for kind, brands in _BRANDS.items() if data[8:12] in brands), "a video or another ISO media file"
        )
    for start, kind in _STARTS:
        if data.startswith(start):
            return kind
    text = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<svg") or (text.startswith((b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in text):
        return "SVG"
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page"
    if text.startswith((b"<?xml", b"<error")):
        return "XML"
    if text.startswith((b'{"', b"[{", b"{\n")):
        return "JSON"
    return "zeros" if data and not any(data[:4096]) else None


def size_of_avif(data: bytes) -> tuple[int, int] | None:
    """(width, height) that an AVIF declares, which libavif does not open when it is too big; None if it is none."""
    if data[4:8] != b"ftyp" or data[8:12] not in _BRANDS["AVIF"]:
        return None
    place = data.find(b"ispe", 0, 1 << 16)
    if place == -1:
        return None
    return int.from_bytes(data[place + 8 : place + 12], "big"), int.from_bytes(data[place + 12 : place + 16], "big")
