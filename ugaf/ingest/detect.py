"""What a file or folder holds, by its name and, for tables, by its columns."""

from __future__ import annotations

from typing import Literal

import pyarrow as pa

from ugaf.errors import ConfigError
from ugaf.ingest import samples
from ugaf.ingest.inputs import InputSettings
from ugaf.ingest.places import Place, glob, list_names, split_glob
from ugaf.ingest.records import record_columns
from ugaf.ingest.tables import table_columns

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
    if settings.kind == "pairs":
        return format if format in ("parquet", "tar") else "records"
    return format or ("records" if place.name.lower().endswith(".json") else "image")


def holds_pairs(settings: InputSettings) -> bool:
    """Whether an input of kind "auto" is a pair set. Never raises for what is missing or unreadable."""
    if settings.path.startswith(samples.SCHEME):
        return False
    try:
        return _holds_pairs(settings)
    except (OSError, pa.ArrowException, ConfigError):
        return {"source", "edited"} <= settings.columns.keys() or format_of(settings.path) == "records"


def _holds_pairs(settings: InputSettings) -> bool:
    parts = split_glob(settings.path)
    if parts and not _exists(settings.path):
        found = next(
            (place for place, info in glob(Place.of(parts[0]), parts[1]) if not isinstance(info, OSError)), None
        )
        return found is not None and file_holds_pairs(found, settings, wanted_format(found, settings))
    place = Place.of(settings.path)
    info = place.info()
    if info.kind == "folder":
        return _folder_holds_pairs(place, settings)
    if info.kind == "missing":
        raise FileNotFoundError(settings.path)
    return file_holds_pairs(place, settings, wanted_format(place, settings))


def _folder_holds_pairs(folder: Place, settings: InputSettings) -> bool:
    """A list of pairs at the folder's top decides; then its first sound Parquet file, there or one folder down."""
    files = list_names(folder)
    if any(format_of(place.name) == "records" and _is_pair_file(place, settings, "records") for place in files):
        return True
    if not any(format_of(place.name) in ("image", "tar", "parquet") for place in files):
        for place in files:
            below = _names_below(place)
            if any(format_of(child.name) for child in below):
                files = below
                break
    tables = (place for place in files if format_of(place.name) == "parquet")
    verdicts = (_is_pair_file(place, settings, "parquet") for place in tables)
    return next((verdict for verdict in verdicts if verdict is not None), False)


def _names_below(place: Place) -> list[Place]:
    try:
        return list_names(place) if place.info().kind == "folder" else []
    except OSError:
        return []


def _is_pair_file(place: Place, settings: InputSettings, format: Format) -> bool | None:
    """None for a file that cannot be read: listing reports it."""
    try:
        return file_holds_pairs(place, settings, format)
    except (OSError, pa.ArrowException):
        return None


def file_holds_pairs(place: Place, settings: InputSettings, format: Format) -> bool:
    """Whether the file is a table with the columns of a pair set."""
    if format == "records":
        return record_columns(place, settings) is not None
    if format == "parquet":
        return table_columns(place, settings).is_pairs
    return False


def _exists(path: str) -> bool:
    if "://" in path:
        return False
    return Place.of(path).info().kind != "missing"
