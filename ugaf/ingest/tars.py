"""WebDataset tars: members indexed by their headers (`tar_index`), matched by name (`tar_samples`), read by offset.

A tar holds photographs, each perhaps with a caption in a .txt or .json, or edit pairs: two images, and the instruction
and the rest in `KEY.json` or in texts named for it (`KEY.edit_prompt.txt`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ugaf.base import faults
from ugaf.base.errors import ConfigError
from ugaf.ingest import json_text
from ugaf.ingest.inputs import InputSettings
from ugaf.ingest.places import Info, Place
from ugaf.ingest.schemas import CAPTION_NAMES
from ugaf.ingest.sources import RecordError, SourceRef
from ugaf.ingest.tar_index import Member, TarError, members
from ugaf.ingest.tar_samples import Pair, Photo, Roles, Stretch, pair_roles, pairs, photos, stretches
from ugaf.ingest.unread import NotRead, suffix_kind


def tar_holds_pairs(place: Place, settings: InputSettings) -> bool | None:
    """Whether an archive holds edit pairs; None where it has no image to tell by. Raises OSError, ArrowException."""
    with place.open() as file:
        roles, has_images = pair_roles(file, settings.columns)
    return roles is not None if has_images else None


def list_tar(
    place: Place, info: Info, settings: InputSettings, wants_pairs: bool, not_read: NotRead
) -> Iterator[SourceRef]:
    """A source for each photograph or pair, and one broken source for each damaged stretch of the archive.

    Raises ConfigError if it holds pairs where photographs are expected or the reverse; `kind: webdataset` takes every
    image as a photograph.
    """
    try:
        with place.open() as file:
            roles = _roles(file, place, settings, wants_pairs)
            yield from _Archive(place, info.version, settings.columns, not_read).sources(file, roles)
    except (OSError, pa.ArrowException) as error:
        faults.raise_if_service(error, place.uri)
        yield SourceRef.broken(place.uri, "", info.version, "tar", TarError(f"cannot read the archive: {error}"))


def _roles(file: Any, place: Place, settings: InputSettings, wants_pairs: bool) -> Roles | None:
    if settings.kind == "webdataset":
        return None
    roles, has_images = pair_roles(file, settings.columns)
    if has_images and (roles is not None) != wants_pairs:
        hint = "name its images with columns: {source: NAME, edited: NAME}" if wants_pairs else "set `kind`"
        raise ConfigError(
            f"input {settings.path!r}: {place.uri} holds {'photographs' if wants_pairs else 'edit pairs'}, the input "
            f"{'edit pairs' if wants_pairs else 'photographs'}: give it an input and a run of its own, or {hint}"
        )
    return roles


@dataclass
class _Archive:
    """What one archive gives: its sources, and counts of the members that nobody used."""

    place: Place
    version: str
    given: Mapping[str, str]
    not_read: NotRead

    def sources(self, file: Any, roles: Roles | None) -> Iterator[SourceRef]:
        names: set[str] = set()
        for stretch in stretches(members(file)):
            found = self._pairs(stretch, roles) if roles is not None else self._photos(stretch)
            ordered = sorted(found, key=lambda item: item[0])
            for offset, name, locator in ordered:
                # Tars may hold several members of one name.
                member = name if name not in names else f"{name}@{offset}"
                names.add(name)
                if isinstance(locator, Exception):
                    yield SourceRef.broken(self.place.uri, member, self.version, "tar", locator)
                else:
                    yield SourceRef.of(self.place.uri, member, self.version, "tar", locator)
            for left in stretch.no_files:
                self.not_read.add(f"{left.what} of tars", f"{self.place.uri}#{left.name}")
            for error in stretch.errors:
                yield SourceRef.broken(self.place.uri, error.member, self.version, "tar", error)

    def _photos(self, stretch: Stretch) -> Iterator[tuple[int, str, dict[str, Any]]]:
        for sample in stretch.samples:
            found = photos(sample)
            self._count(sample.members, [m for photo in found for m in (photo.image, photo.caption) if m is not None])
            for photo in found:
                yield photo.image.offset, photo.image.name, self._photo(photo)

    def _pairs(self, stretch: Stretch, roles: Roles) -> Iterator[tuple[int, str, dict[str, Any] | RecordError]]:
        for sample in stretch.samples:
            found = pairs(sample, roles)
            self._count(sample.members, [member for pair in found for member in pair.used])
            for pair in found:
                yield pair.offset, pair.key, self._pair(pair, roles)

    def _photo(self, photo: Photo) -> dict[str, Any]:
        locator = {**self.place.locator(), "offset": photo.image.offset, "size": photo.image.size}
        if photo.caption is not None:
            locator["caption"] = [photo.caption.suffix, *_span(photo.caption)]
        return locator

    def _pair(self, pair: Pair, roles: Roles) -> dict[str, Any] | RecordError:
        if pair.mixed:
            return RecordError("members of one name come several times: which of them belong together cannot be told")
        for role, image in zip(roles, (pair.source, pair.edited), strict=True):
            if image is None:
                return RecordError(f"half a pair: there is no {pair.key}.{role} image in the archive")
        assert pair.source is not None
        assert pair.edited is not None
        spans: dict[str, Any] = {"source": _span(pair.source), "edited": _span(pair.edited)}
        if pair.fields is not None:
            spans["fields"] = _span(pair.fields)
        texts = {name: _span(member) for name, member in pair.texts.items()}
        given = {role: name for role, name in self.given.items() if role not in ("source", "edited")}
        return {**self.place.locator(), "pair": spans, "texts": texts, **({"columns": given} if given else {})}

    def _count(self, given: Any, used: list[Member]) -> None:
        offsets = {member.offset for member in used}
        for member in given:
            if member.offset not in offsets:
                what = f"{suffix_kind(f'.{member.parts}')} members" if member.parts else "members without a suffix"
                self.not_read.add(f"{what} of tars", f"{self.place.uri}#{member.name}")


def read_photo(file: Any, locator: Mapping[str, Any]) -> tuple[bytes, str | None]:
    """(the image's bytes, its caption or None) through the archive's open file. Raises TarError."""
    data = _read(file, locator["offset"], locator["size"])
    if "caption" not in locator:
        return data, None
    suffix, offset, size = locator["caption"]
    text = _text(file, offset, size)
    return data, caption_of(text) if suffix == "json" else text.strip() or None


def read_pair(file: Any, locator: Mapping[str, Any]) -> tuple[bytes, bytes, dict[str, Any]]:
    """(source, edited, the pair's other fields as its .json and texts name them). Raises TarError, RecordError."""
    spans = locator["pair"]
    fields: dict[str, Any] = {}
    if "fields" in spans:
        try:
            parsed = json_text.parse(_text(file, *spans["fields"]))
        except ValueError as error:
            raise RecordError(f"the pair's .json is not JSON: {error}") from error
        if not isinstance(parsed, dict):
            raise RecordError(f"the pair's .json is not a JSON object but {type(parsed).__name__}")
        fields = parsed
    for name, span in locator["texts"].items():
        fields.setdefault(name or "text", _text(file, *span))
    return _read(file, *spans["source"]), _read(file, *spans["edited"]), fields


def caption_of(text: str) -> str | None:
    """The caption in a sample's .json, under any of the usual names; None if there is none."""
    try:
        fields = json_text.parse(text)
    except ValueError:
        return None
    if not isinstance(fields, dict):
        return None
    values = (fields.get(name) for name in CAPTION_NAMES)
    return next((value.strip() for value in values if isinstance(value, str) and value.strip()), None)


def _span(member: Member) -> list[int]:
    return [member.offset, member.size]


def _text(file: Any, offset: int, size: int) -> str:
    return _read(file, offset, size).decode("utf-8", "replace")


def _read(file: Any, offset: int, size: int) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        raise TarError(f"the archive ends after {len(data)} of the member's {size} bytes")
    return data
