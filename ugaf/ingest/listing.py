"""Listing: every source of a pipeline's inputs, in the same order each time, without reading the images.

What is wrong with an input as a whole (nothing there, nothing in it, a column that does not exist) is a ConfigError.
What is wrong with one file, member or line is a source that will fail, so that it is counted and explained.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from ugaf.errors import ConfigError
from ugaf.ingest import samples
from ugaf.ingest.detect import Format, format_of, wanted_format
from ugaf.ingest.inputs import InputSettings
from ugaf.ingest.places import Found, Info, Place, glob, list_folder, split_glob, walk
from ugaf.ingest.records import list_records
from ugaf.ingest.sources import SourceError, SourceRef
from ugaf.ingest.tables import list_table, table_columns
from ugaf.ingest.tars import list_tar

_PLAIN_SUFFIX = re.compile(r"\.[A-Za-z0-9]+$")
_WANTED: dict[str, tuple[Format, ...]] = {
    "auto": ("image", "tar", "parquet"),
    "images": ("image",),
    "webdataset": ("tar",),
    "parquet": ("parquet",),
    "pairs": ("records", "parquet"),
}


def list_sources(inputs: InputSettings | Sequence[InputSettings]) -> Iterator[SourceRef]:
    """Every source, input by input; each input in the order of its names (a folder's entries sorted, depth first).

    It streams: memory grows with the largest folder, not with the number of sources. A source that several inputs name
    comes several times.

    Raises:
        ConfigError: an input that is not there, holds nothing to read or lacks a column, and photographs mixed with
            edit pairs; the message names the input and what was found.
    """
    entries = [inputs] if isinstance(inputs, InputSettings) else list(inputs)
    pairs = hold_pairs(entries)
    for settings in entries:
        found = itertools.islice(_list_input(settings, pairs), settings.limit)
        yield from (source.of_input(settings.path) for source in found)


def hold_pairs(inputs: Sequence[InputSettings]) -> bool:
    """True if all inputs are edit pairs, False if all are photographs.

    Raises ConfigError if they are mixed or if one is not there: to be called before any work starts.
    """
    for entry in inputs:
        _check_there(entry)
    kinds = [entry.is_pairs for entry in inputs]
    if len(set(kinds)) > 1:
        pairs = ", ".join(entry.path for entry, is_pairs in zip(inputs, kinds, strict=True) if is_pairs)
        photos = ", ".join(entry.path for entry, is_pairs in zip(inputs, kinds, strict=True) if not is_pairs)
        raise ConfigError(
            f"inputs: edit pairs ({pairs}) and photographs ({photos}) cannot be mixed in one run: make two runs (or "
            "set `kind` if one of them was taken for what it is not)"
        )
    return any(kinds)


def _check_there(settings: InputSettings) -> None:
    if settings.path.startswith(samples.SCHEME):
        samples.check_name(settings.path)
        return
    place, info = _look(settings.path)
    if info is not None and info.kind == "missing" and split_glob(settings.path) is None:
        raise ConfigError(f"input {settings.path!r}: no such file or folder{_beside(place)}")


def _list_input(settings: InputSettings, pairs: bool) -> Iterator[SourceRef]:
    if settings.path.startswith(samples.SCHEME):
        yield from samples.list_samples(settings.path)
        return
    place, info = _look(settings.path)
    parts = split_glob(settings.path)
    if info is not None and info.kind == "folder":
        yield from _list_found(walk(place), settings, pairs, f"no {_what(settings, pairs)} in the folder", True)
    elif info is not None and info.kind != "missing":
        yield from _list_named(place, info, settings, pairs)
    elif parts is not None:
        found = glob(Place.of(parts[0]), parts[1])
        empty = f"no {_what(settings, pairs)} match the pattern"
        # `*.dat` asks for those files by their suffix; `shoot/*` for what there is to read.
        yield from _list_found(found, settings, pairs, empty, not _PLAIN_SUFFIX.search(parts[1]))


def _look(path: str) -> tuple[Place, Info | None]:
    """The place itself and what is there; None for a URL pattern, which is no path of its own."""
    if "://" in path and split_glob(path) is not None:
        return Place.of(split_glob(path)[0]), None  # type: ignore[index]
    place = Place.of(path)
    try:
        return place, place.info()
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"input {path!r}: cannot be opened: {error}") from error


def _list_found(
    found: Iterable[Found], settings: InputSettings, pairs: bool, empty: str, by_name: bool
) -> Iterator[SourceRef]:
    """Sources of a folder's or pattern's files; `by_name` leaves out files whose name is of no wanted format."""
    left_out: Counter[str] = Counter()
    count = 0
    wanted = _WANTED["pairs" if pairs else settings.kind]
    for place, info in found:
        format = format_of(place.name)
        if isinstance(info, OSError):
            sources: Iterable[SourceRef] = [_unlisted(place, info)]
        elif by_name and format not in wanted:
            left_out[_suffix(place.name)] += 1
            continue
        else:
            chosen = format if format in wanted else wanted_format(place, settings)
            sources = _list_file(place, info, settings, chosen or "image", pairs)
        for source in sources:
            count += 1
            yield source
    if not count:
        listing = ", ".join(f"{number} {suffix}" for suffix, number in left_out.most_common(8))
        raise ConfigError(f"input {settings.path!r}: {empty}; found: {listing or 'no files'}")


def _list_named(place: Place, info: Info, settings: InputSettings, pairs: bool) -> Iterator[SourceRef]:
    """Sources of the file that an input names; that it is unreadable or empty is an error of the input."""
    format = wanted_format(place, settings)
    if format == "parquet":
        try:
            table_columns(place, settings)
        except (OSError, pa.ArrowException) as error:
            raise ConfigError(f"input {settings.path!r}: cannot be read as Parquet: {error}") from error
    first = None
    for source in _list_file(place, info, settings, format, pairs):
        first = first or source
        yield source
    if first is None:
        raise ConfigError(f"input {settings.path!r}: there is nothing in it to read (no {_what(settings, pairs)})")


def _list_file(place: Place, info: Info, settings: InputSettings, format: Format, pairs: bool) -> Iterator[SourceRef]:
    if info.kind != "file":
        yield SourceRef.broken(place.uri, "", info.version, "file", "not a regular file (a dangling link or a device)")
    elif format == "image":
        size = {} if info.size is None else {"size": info.size}
        yield SourceRef.of(place.uri, "", info.version, "file", {**place.locator(), **size})
    elif format == "tar":
        yield from list_tar(place, info)
    elif format == "records":
        yield from list_records(place, settings)
    else:
        yield from list_table(place, info, settings, pairs)


def _unlisted(folder: Place, error: OSError) -> SourceRef:
    return SourceRef.broken(folder.uri, "", "", "file", SourceError(f"the folder cannot be listed: {error}"))


def _what(settings: InputSettings, pairs: bool) -> str:
    if pairs:
        return "edit pairs (.jsonl, .csv, .parquet)"
    names = {"auto": "images, tars or Parquet files", "webdataset": "tars", "parquet": "Parquet rows"}
    return names.get(settings.kind, "images")


def _suffix(name: str) -> str:
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else "without a suffix"


def _beside(place: Place) -> str:
    """What stands where the missing thing was looked for."""
    folder = place.parent()
    while folder.info().kind == "missing" and folder.path not in ("", "/"):
        folder = folder.parent()
    try:
        names = [entry.name for entry, _ in list_folder(folder)]
    except OSError:
        return ""
    close = difflib.get_close_matches(place.name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {folder.child(close[0]).uri!r}?"
    shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return f"; the folder {folder.uri} holds {shown or 'nothing'}"
