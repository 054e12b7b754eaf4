"""What a file or folder holds, by its name and, for tables, by its columns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import pyarrow as pa

from ugaf.base.errors import ConfigError
from ugaf.base.faults import raise_if_service
from ugaf.ingest import samples
from ugaf.ingest.inputs import InputSettings
from ugaf.ingest.lists import list_columns
from ugaf.ingest.places import Info, Place, glob, list_names, split_glob
from ugaf.ingest.schemas import NoColumnsError
from ugaf.ingest.tables import table_columns
from ugaf.ingest.tars import tar_holds_pairs

Format = Literal["image", "tar", "parquet", "records"]
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".gif")
_SUFFIXES: dict[Format, tuple[str, ...]] = {
    "image": IMAGE_SUFFIXES,
    "tar": (".tar", ".tar.gz", ".tgz"),
    "parquet": (".parquet", ".pq"),
    "records": (".jsonl", ".jsonl.gz", ".ndjson", ".csv", ".csv.gz", ".tsv"),
}


def format_of(name: str) -> Format | None:
    """The format that a file's name tells; None for what ingest does not read."""
    lower = name.lower()
    return next((format for format, suffixes in _SUFFIXES.items() if lower.endswith(suffixes)), None)


def wanted_format(place: Place, settings: InputSettings) -> Format:
    """The format of a file that was named itself, whatever its name: `kind` says it, else the name, else an image."""
    format = format_of(place.name)
    if settings.kind == "images":
        return "image"
    if settings.kind == "webdataset":
        return "tar"
    if settings.kind == "parquet":
        return "parquet"
    if settings.kind == "list":
        return "records"
    if settings.kind == "pairs":
        return format if format in ("parquet", "tar") else "records"
    return format or ("records" if place.name.lower().endswith(".json") else "image")


def holds_pairs(settings: InputSettings) -> bool:
    """Whether an input's rows are edit pairs, not photographs. `kind: auto` looks at the file or folder.

    What is not there counts by its name alone, so that a finished run can be looked at without its inputs;
    `list_sources` is what reports it. Raises StopRun where its store does not say.
    """
    return pair_format(settings) is not None if settings.kind == "auto" else settings.kind == "pairs"


def pair_format(settings: InputSettings) -> Format | None:
    """What tells that an input holds edit pairs: a list, a table or a tar; None for photographs.

    Raises StopRun where its store does not say.
    """
    if settings.path.startswith(samples.SCHEME):
        return None
    try:
        return read_pair_format(settings)
    except (OSError, pa.ArrowException, ConfigError) as error:
        raise_if_service(error, settings.path)
        format = format_of(settings.path)
        if {"source", "edited"} <= settings.columns.keys():
            return format or "records"
        return "records" if format == "records" and "image" not in settings.columns else None


def read_pair_format(settings: InputSettings) -> Format | None:
    """The same, from what is there. Raises OSError, ArrowException, ConfigError where that does not tell."""
    parts = split_glob(settings.path)
    if parts and not _exists(settings.path):
        found = (place for place, info in glob(Place.of(parts[0]), parts[1]) if isinstance(info, Info))
        return _first_verdict(((place, wanted_format(place, settings)) for place in found), settings)
    place = Place.of(settings.path)
    info = place.info()
    if info.kind == "folder":
        return _folder_format(place, settings)
    if info.kind == "missing":
        raise FileNotFoundError(settings.path)
    format = wanted_format(place, settings)
    return format if file_holds_pairs(place, settings, format) else None


def _folder_format(folder: Place, settings: InputSettings) -> Format | None:
    """A list of pairs at the folder's top decides; then its first table or tar that tells, or one folder down."""
    files = list_names(folder)
    if any(format_of(place.name) == "records" and _verdict(place, settings, "records") for place in files):
        return "records"
    if not any(format_of(place.name) in ("image", "tar", "parquet") for place in files):
        for place in files:
            below = _names_below(place)
            if any(format_of(child.name) for child in below):
                files = below
                break
    for format in ("parquet", "tar"):
        found = _first_verdict(((place, format) for place in files if format_of(place.name) == format), settings)
        if found is not None:
            return found
    return None


def _first_verdict(files: Iterable[tuple[Place, Format]], settings: InputSettings) -> Format | None:
    """The format of the first file that can tell, if it holds pairs."""
    for place, format in files:
        verdict = _verdict(place, settings, format)
        if verdict is not None:
            return format if verdict else None
    return None


def _names_below(place: Place) -> list[Place]:
    try:
        return list_names(place) if place.info().kind == "folder" else []
    except OSError:
        return []


def _verdict(place: Place, settings: InputSettings, format: Format) -> bool | None:
    """None for a file that cannot be read, which listing reports, and for one that is neither pairs nor pictures."""
    try:
        return file_holds_pairs(place, settings, format)
    except (OSError, pa.ArrowException, NoColumnsError):
        return None


def file_holds_pairs(place: Place, settings: InputSettings, format: Format) -> bool | None:
    """Whether a list, a table or a tar holds edit pairs; None where it has nothing to tell by.

    Raises ConfigError for columns that are not there or not enough, OSError or ArrowException if it cannot be read.
    """
    if format == "records":
        return list_columns(place, settings).is_pairs
    if format == "parquet":
        return table_columns(place, settings).is_pairs
    return tar_holds_pairs(place, settings) if format == "tar" else False


def _exists(path: str) -> bool:
    if "://" in path:
        return False
    return Place.of(path).info().kind != "missing"
