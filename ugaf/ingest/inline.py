"""Pictures written as text where a path could stand: base64 and data URIs."""

from __future__ import annotations

import base64
import binascii
import re
import urllib.parse

from ugaf.ingest.sources import RecordError

_DATA = re.compile(r"data:([^,;]*)((?:;[^,;]*)*),", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")
_LONGEST_PATH = 4096
_SHORTEST_IMAGE = 40
_STARTS = re.compile(rb"\xff\xd8\xff|\x89PNG|GIF8|RIFF....WEBP|BM....\0\0\0\0|II[*+]\0|MM\0[*+]|....ftyp", re.DOTALL)
"""What the bytes of image files start with."""


def image(what: str, cell: str) -> bytes | None:
    """The bytes of a picture that is written as text; None for a text that can be a path or a URL.

    Raises RecordError, which begins with `what`, for a data URI that cannot be read and for a text that is too long
    to be a path and no picture either.
    """
    if cell[:5].lower() == "data:":
        return _data_uri(what, cell)
    if len(cell) >= _SHORTEST_IMAGE and _starts_like_image(cell):
        found = _decoded(cell)
        if found is not None:
            return found
    if len(cell) > _LONGEST_PATH:
        raise RecordError(f"{what}: a text of {len(cell)} characters is neither a path nor a picture in base64")
    return None


def _data_uri(what: str, cell: str) -> bytes:
    match = _DATA.match(cell)
    if match is None:
        raise RecordError(f"{what}: a data URI without a comma before its data ({len(cell)} characters)")
    data = cell[match.end() :]
    if "base64" in match[2].lower():
        found = _decoded(urllib.parse.unquote(data))
        if found is None:
            raise RecordError(f"{what}: a data URI ({match[1][:40]}) whose base64 is damaged: {len(data)} characters")
        return found
    return urllib.parse.unquote_to_bytes(data)


def _starts_like_image(cell: str) -> bool:
    head = _decoded("".join(cell[:80].split())[:24])
    return head is not None and _STARTS.match(head) is not None


def _decoded(text: str) -> bytes | None:
    """Base64, of either alphabet, with or without its padding and line ends; None if it is not."""
    compact = "".join(text.split())
    if not _BASE64.fullmatch(compact):
        return None
    compact = compact.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except binascii.Error:
        return None
