"""WebDataset tars: members indexed by their headers, read by their offsets.

A sample is what shares a key (the path up to the first dot of the name): an image, and perhaps a caption in its .txt
or .json. Where a key has an image with a plain suffix (`k.jpg`), those with a longer one (`k.seg.png`) are its parts
and not photographs; else every image member is a photograph.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import tarfile
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ugaf.ingest.places import Info, Place
from ugaf.ingest.schemas import CAPTION_NAMES
from ugaf.ingest.sources import SourceError, SourceRef

_BLOCK = 512
_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)
_PLAIN_IMAGE = re.compile(r"(jpe?g|jpe|jfif|png|webp|bmp|tiff?|avif|gif)", re.IGNORECASE)


class TarError(SourceError):
    """A tar archive, or a member of one, that is damaged; `member` says where."""

    def __init__(self, message: str, member: str = "") -> None:
        super().__init__(message)
        self.member = member


@dataclass(frozen=True)
class Member:
    """A regular file in a tar: its sample's key, its suffix after that, and where its bytes are."""

    name: str
    key: str
    suffix: str
    offset: int
    size: int

    @property
    def is_image(self) -> bool:
        return _PLAIN_IMAGE.fullmatch(self.suffix.rpartition(".")[2]) is not None


def list_tar(place: Place, info: Info) -> Iterator[SourceRef]:
    """A source for each photograph, and one broken source for each damaged stretch of the archive."""
    stamp = info.version
    names: set[str] = set()
    try:
        with place.open() as file:
            for photo, caption in _photographs(_members(file)):
                if isinstance(photo, TarError):
                    yield SourceRef.broken(place.uri, photo.member, stamp, "tar", photo)
                    continue
                locator = {**place.locator(), "offset": photo.offset, "size": photo.size}
                if caption is not None:
                    locator["caption"] = [caption.suffix.lower(), caption.offset, caption.size]
                # Tars may hold several members of one name.
                name = photo.name if photo.name not in names else f"{photo.name}@{photo.offset}"
                names.add(photo.name)
                yield SourceRef.of(place.uri, name, stamp, "tar", locator)
    except (OSError, pa.ArrowException) as error:
        yield SourceRef.broken(place.uri, "", stamp, "tar", TarError(f"cannot read the archive: {error}"))


def read_member(file: Any, locator: dict[str, Any]) -> tuple[bytes, str | None]:
    """(the image's bytes, its caption or None) through the archive's open file. Raises TarError."""
    data = _read(file, locator["offset"], locator["size"])
    if "caption" not in locator:
        return data, None
    suffix, offset, size = locator["caption"]
    text = _read(file, offset, size).decode("utf-8", "replace")
    return data, caption_of(text) if suffix == "json" else text.strip() or None


def caption_of(text: str) -> str | None:
    """The caption in a sample's .json, under any of the usual names; None if there is none."""
    try:
        fields = json.loads(text)
    except ValueError:
        return None
    if not isinstance(fields, dict):
        return None
    values = (fields.get(name) for name in CAPTION_NAMES)
    return next((value.strip() for value in values if isinstance(value, str) and value.strip()), None)


def _read(file: Any, offset: int, size: int) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        raise TarError(f"the archive ends after {len(data)} of the member's {size} bytes")
    return data


def _photographs(members: Iterable[Member | TarError]) -> Iterator[tuple[Member | TarError, Member | None]]:
    """(photograph, its caption) for each sample: neighbours that share a key. Errors pass through."""
    for _, group in itertools.groupby(members, key=lambda item: item.key if isinstance(item, Member) else item):
        sample = list(group)
        found = [item for item in sample if isinstance(item, Member)]
        images = [member for member in found if member.is_image]
        plain = [member for member in images if "." not in member.suffix]
        captions = {member.suffix.lower(): member for member in found}
        caption = captions.get("txt") or captions.get("caption") or captions.get("json")
        yield from ((image, caption) for image in plain or images)
        yield from ((item, None) for item in sample if isinstance(item, TarError))


def _members(file: Any) -> Iterator[Member | TarError]:
    """Every visible regular member; damage is reported, and reading goes on at the next sound header after it."""
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    if file.read(2) == b"\x1f\x8b":
        yield TarError("a compressed archive cannot be read by offset: decompress it first (gunzip)")
        return
    if end == 0:
        yield TarError("empty file (0 bytes)")
    start = 0
    while start < end:
        file.seek(start)
        damaged = yield from _sound_members(file, start, end)
        if damaged is None:
            return
        start = _next_header(file, damaged + _BLOCK, end)
        goes_on = f"it goes on at byte {start}" if start < end else "and none after it"
        yield TarError(f"damaged archive: no member's header at byte {damaged}; {goes_on}", f"byte {damaged}")


def _sound_members(file: Any, start: int, end: int) -> Generator[Member | TarError, None, int | None]:
    """Members from `start` to the archive's end (returns None) or to the first damage (returns its offset)."""
    try:
        tar: Any = tarfile.TarFile(fileobj=file, mode="r")
    except (tarfile.TarError, ValueError):
        return None if _is_end(file, start) else start
    while True:
        try:
            member = tar.next()
        except (tarfile.TarError, ValueError, EOFError):
            return tar.offset
        if member is None:
            return None if _is_end(file, tar.offset) else tar.offset
        tar.members.clear()
        if member.isreg() and member.offset_data + member.size > end:
            yield TarError("truncated archive: it ends inside this member", member.name)
            return None
        match = _NAME.fullmatch(member.name)
        if member.isreg() and match and not member.issparse():
            yield Member(member.name, match[1], match[2], member.offset_data, member.size)


def _is_end(file: Any, offset: int) -> bool:
    file.seek(offset)
    return not any(file.read(_BLOCK))


def _next_header(file: Any, offset: int, end: int) -> int:
    """The offset of the first block from `offset` on that is a header with a right checksum, else `end`."""
    file.seek(offset)
    for position in range(offset, end, _BLOCK):
        block = file.read(_BLOCK)
        if block[257:262] == b"ustar":
            try:
                tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.TarError:
                continue
            return position
    return end
