"""The members of a tar, found by their headers alone: names, offsets and sizes, and what is damaged."""

from __future__ import annotations

import io
import posixpath
import re
import tarfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from ugaf.ingest.sources import SourceError

_BLOCK = 512
_ZEROS = 1 << 20
_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)
_IMAGE = re.compile(r"(jpe?g|jpe|jfif|png|webp|bmp|tiff?|avif|gif)", re.IGNORECASE)


class TarError(SourceError):
    """A tar archive, or a member of one, that is damaged; `member` says where."""

    def __init__(self, message: str, member: str = "") -> None:
        super().__init__(message)
        self.member = member


@dataclass(frozen=True, slots=True)
class Member:
    """A visible member of a tar and where its bytes are; for a link, the name of the member that has them.

    A name `dir/IMG_1.0.jpg` has the key `dir/IMG_1` (as webdataset cuts it), the stem `dir/IMG_1.0` and the suffix
    `jpg`.
    """

    name: str
    offset: int
    size: int
    target: str | None = None

    @property
    def key(self) -> str:
        match = _NAME.fullmatch(self.name)
        return match[1] if match else self.name

    @property
    def stem(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def suffix(self) -> str:
        return self.name.rpartition(".")[2].lower()

    @property
    def parts(self) -> str:
        """The suffixes after the key: "jpg", "seg.png"; "" for a name without one."""
        return self.name[len(self.key) + 1 :].lower()

    @property
    def is_image(self) -> bool:
        return _IMAGE.fullmatch(self.suffix) is not None and _NAME.fullmatch(self.name) is not None


@dataclass(frozen=True, slots=True)
class NoFile:
    """A visible member that has no bytes to read; `what` it is, in the plural."""

    name: str
    what: str


Item = Member | NoFile | TarError


def members(file: Any) -> Iterator[Item]:
    """Every visible member but folders; damage is reported, and reading goes on at the next sound header.

    So it does behind zeros, which end an archive: several may stand in one file, one after the other.
    """
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
        stop = yield from _sound_members(file, start, end)
        if stop is None:
            return
        start = _behind_zeros(file, stop.offset, end)
        if start >= end:
            return
        if start > stop.offset and _is_header(file, start):
            continue
        start = _next_header(file, start + _BLOCK, end)
        goes_on = f"it goes on at byte {start}" if start < end else "and none after it"
        yield TarError(f"damaged archive: {stop.reason}; {goes_on}", f"byte {stop.offset}")


def plain_name(name: str) -> str:
    """A member's name without a leading `./` and the like."""
    return posixpath.normpath(name)


@dataclass(frozen=True)
class _Stop:
    """Where an archive ends or is damaged."""

    offset: int
    said: str = ""

    @property
    def reason(self) -> str:
        return self.said or f"no member's header at byte {self.offset}"


def _sound_members(file: Any, start: int, end: int) -> Generator[Item, None, _Stop | None]:
    """Members from `start` to the archive's end or to the first damage; returns None where the file is cut off."""
    try:
        tar: Any = tarfile.TarFile(fileobj=file, mode="r")
    except (tarfile.TarError, ValueError):
        return _Stop(start)
    while True:
        try:
            member = tar.next()
        except (tarfile.TarError, ValueError, EOFError):
            return _Stop(tar.offset)
        if member is None:
            return _Stop(tar.offset)
        tar.members.clear()
        if member.size < 0:  # what follows would be looked for before it, for ever
            return _Stop(
                member.offset, f"the header of {member.name!r} at byte {member.offset} says {member.size} bytes"
            )
        if member.isreg() and member.offset_data + member.size > end:
            yield TarError("truncated archive: it ends inside this member", member.name)
            return None
        if posixpath.basename(member.name).startswith("."):
            continue
        if member.isreg() and not member.issparse():
            yield Member(member.name, member.offset_data, member.size)
        elif member.islnk() or member.issym():
            yield Member(member.name, member.offset, 0, _target(member))
        elif not member.isdir():
            yield NoFile(member.name, "sparse members" if member.isreg() else "devices and pipes")


def _target(member: Any) -> str:
    """The name of the member that a link stands for: a symbolic link's starts at its own folder."""
    folder = posixpath.dirname(member.name) if member.issym() else ""
    return plain_name(posixpath.join(folder, member.linkname))


def _behind_zeros(file: Any, offset: int, end: int) -> int:
    """The offset of the first block from `offset` on that is not all zeros, else `end`."""
    file.seek(offset)
    while block := file.read(_ZEROS):
        rest = block.lstrip(b"\0")
        if rest:
            return offset + (len(block) - len(rest)) // _BLOCK * _BLOCK
        offset += len(block)
    return end


def _is_header(file: Any, offset: int) -> bool:
    file.seek(offset)
    try:
        return tarfile.TarInfo.frombuf(file.read(_BLOCK), "utf-8", "surrogateescape").size >= 0
    except tarfile.TarError:
        return False


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
