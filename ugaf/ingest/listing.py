"""Listing: every source of a pipeline's inputs, in the same order each time, without reading the images.

What is wrong with an input as a whole (nothing there, nothing in it, a column that does not exist) is a ConfigError.
What is wrong with one file, member or line is a source that will fail, so that it is counted and explained.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from ugaf.base.errors import ConfigError
from ugaf.base.faults import raise_if_service
from ugaf.ingest import samples
from ugaf.ingest.access import is_below
from ugaf.ingest.detect import Format, format_of, holds_pairs, pair_format, read_pair_format, wanted_format
from ugaf.ingest.inputs import SCHEMES, InputSettings
from ugaf.ingest.list_problems import cannot_be_read
from ugaf.ingest.lists import list_columns, list_records
from ugaf.ingest.places import Found, Info, Place, Skipped, glob, list_folder, split_glob, walk
from ugaf.ingest.schemas import NamesFilesError, NoColumnsError
from ugaf.ingest.sources import SourceError, SourceRef
from ugaf.ingest.tables import list_table, table_columns
from ugaf.ingest.tars import list_tar
from ugaf.ingest.unread import NotRead, suffix_kind

_SUFFIX = re.compile(r"\.([A-Za-z0-9]|\[[A-Za-z0-9-]+\])+$")
_WANTED: dict[str, tuple[Format, ...]] = {
    "auto": ("image", "tar", "parquet", "records"),
    "images": ("image",),
    "webdataset": ("tar",),
    "parquet": ("parquet",),
    "list": ("records",),
}


def list_sources(
    inputs: InputSettings | Sequence[InputSettings], run: str | None = None, not_read: NotRead | None = None
) -> Iterator[SourceRef]:
    """Every source, input by input; each input in the order of its names (a folder's entries sorted, depth first).

    It streams: memory grows with the largest folder, not with the number of sources. A source that several inputs name
    comes several times.

    Args:
        inputs: where to look.
        run: the folder of the run, which is left out wherever it lies under an input.
        not_read: gets what is left out, and is complete when the last source has come.

    Raises:
        ConfigError: an input that is not there, holds nothing to read or lacks a column, and photographs mixed with
            edit pairs; the message names the input and what was found.
    """
    entries = [inputs] if isinstance(inputs, InputSettings) else list(inputs)
    pairs = hold_pairs(entries)
    counts = NotRead() if not_read is None else not_read
    for settings in entries:
        found = itertools.islice(_Listing(settings, pairs, run, counts).sources(), settings.limit)
        yield from (source.of_input(settings.path) for source in found)


def hold_pairs(inputs: Sequence[InputSettings]) -> bool:
    """True if all inputs are edit pairs, False if all are photographs.

    Raises ConfigError if they are mixed or if one is not there: to be called before any work starts.
    """
    for entry in inputs:
        _check_there(entry)
    kinds = [holds_pairs(entry) for entry in inputs]
    if len(set(kinds)) > 1:
        pairs = ", ".join(entry.path for entry, is_pairs in zip(inputs, kinds, strict=True) if is_pairs)
        photos = ", ".join(entry.path for entry, is_pairs in zip(inputs, kinds, strict=True) if not is_pairs)
        raise ConfigError(
            f"inputs: edit pairs ({pairs}) and photographs ({photos}) cannot be mixed in one run: make two runs (or "
            "set `kind` if one of them was taken for what it is not)"
        )
    return any(kinds)


def check_readable(settings: InputSettings) -> None:
    """Raise ConfigError for an input that is not there or cannot be read, of which `holds_pairs` goes by the name."""
    _check_there(settings)
    if settings.path.startswith(samples.SCHEME):
        return
    place, info = _look(settings.path)
    parts = split_glob(settings.path)
    if parts is not None and (info is None or info.kind == "missing"):
        folder = Place.of(parts[0])
        if next(glob(folder, parts[1]), None) is None:
            raise ConfigError(f"input {settings.path!r}: no file matches it{_beside(folder.child(parts[1]))}")
    try:
        read_pair_format(settings)
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"input {settings.path!r}: {cannot_be_read(place, error)}") from error


def _check_there(settings: InputSettings) -> None:
    path = settings.path
    if path.startswith(samples.SCHEME):
        samples.check_name(path)
        return
    place, info = _look(path)
    parts = split_glob(path)
    if parts is not None and (info is None or info.kind == "missing"):
        folder, found = _look(parts[0])
        if found is not None and found.kind != "folder":
            what = f"no such folder{_beside(folder)}" if found.kind == "missing" else "no folder"
            raise ConfigError(f"input {path!r}: no file matches it: {folder.uri} is {what}")
    elif info is not None and info.kind == "missing":
        scheme, colon, rest = path.partition(":")
        if colon and scheme in SCHEMES and not rest.startswith("//"):
            raise ConfigError(f"input {path!r}: no such file or folder; did you mean {scheme}://{rest.lstrip('/')}?")
        raise ConfigError(f"input {path!r}: no such file or folder{_beside(place)}")


def _look(path: str) -> tuple[Place, Info | None]:
    """The place itself and what is there; None for a URL pattern, which is no path of its own."""
    if "://" in path and split_glob(path) is not None:
        return Place.of(split_glob(path)[0]), None  # type: ignore[index]
    place = Place.of(path)
    try:
        return place, place.info()
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"input {path!r}: cannot be opened: {error}") from error


@dataclass
class _Listing:
    """The sources of one input.

    Attributes:
        settings: the input.
        pairs: whether the inputs hold edit pairs.
        run: the run's own folder.
        not_read: counts of what is left out.
    """

    settings: InputSettings
    pairs: bool
    run: str | None
    not_read: NotRead

    def sources(self) -> Iterator[SourceRef]:
        path = self.settings.path
        if path.startswith(samples.SCHEME):
            yield from samples.list_samples(path)
            return
        place, info = _look(path)
        parts = split_glob(path)
        if info is not None and info.kind == "folder":
            self._check_apart(place)
            border = self._border(place)
            found = walk(place, None, functools.partial(_left_out, self._own_folder(), True, border))
            yield from self._found(found, f"no {_what(self.settings, self.pairs)} in the folder", True, border)
        elif info is not None and info.kind != "missing":
            yield from self._named(place, info)
        elif parts is not None:
            folder = Place.of(parts[0])
            border = self._border(folder)
            found = glob(folder, parts[1], functools.partial(_left_out, self._own_folder(), False, border))
            # `*.dat` asks for those files by their suffix; `shoot/*` for what there is to read.
            by_name = not _SUFFIX.search(parts[1])
            empty = f"no {_what(self.settings, self.pairs)} match the pattern"
            yield from self._found(found, empty, by_name, border)

    def _own_folder(self) -> Place | None:
        return None if self.run is None else Place.of(self.run)

    def _border(self, folder: Place) -> list[str]:
        """The real folders outside of which no link of a listed folder may lead."""
        allowed = (Place.of(other) for other in self.settings.allow)
        return [os.path.realpath(place.path) for place in (folder, *allowed) if not place.is_remote]

    def _check_apart(self, place: Place) -> None:
        own = self._own_folder()
        if own is not None and _same(place, own):
            raise ConfigError(
                f"input {self.settings.path!r}: is the run's own folder; give the run another one with --output"
            )

    def _found(self, found: Iterable[Found], empty: str, by_name: bool, border: Sequence[str]) -> Iterator[SourceRef]:
        """Sources of a folder's or pattern's files; `by_name` leaves out files whose name is of no wanted format."""
        here = NotRead()
        wanted, later = self._wanted(), list[tuple[Place, Info, Format]]()
        count: int = 0
        problem: ConfigError | None = None
        for place, info in found:
            format = format_of(place.name)
            if isinstance(info, Skipped):
                here.add(f"folders: {info.what}", place.uri)
                continue
            if _leads_out(place, border):
                here.add(_OUTSIDE, place.uri)
                continue
            if isinstance(info, OSError):
                count += 1
                yield _unlisted(place, info)
                continue
            if by_name and format not in wanted:
                here.add(_named_by_suffix(place.name), place.uri)
                continue
            chosen = (format if format in wanted else wanted_format(place, self.settings)) or "image"
            try:
                for source in self._file(place, info, chosen, not by_name or self.settings.kind != "auto"):
                    count += 1
                    yield source
            except NoColumnsError as error:
                problem = problem or error
                here.add(f"tables and lists without {'edit pairs' if self.pairs else 'images'}", place.uri)
            except NamesFilesError:
                later.append((place, info, chosen))
        for place, info, chosen in later:
            if count:
                here.add("lists of photographs beside photographs (to read one, give it as the input)", place.uri)
            else:
                yield from self._file(place, info, chosen)
        self._report(here)
        if not count and not later:
            hint = (
                "; a pattern that ends in a suffix, like *.pgm, takes its files whatever they are"
                if "pattern" in empty and here
                else ""
            )
            raise problem or ConfigError(f"input {self.settings.path!r}: {empty}; found: {here or 'no files'}{hint}")

    def _wanted(self) -> tuple[Format, ...]:
        if not self.pairs:
            return _WANTED[self.settings.kind]
        # Tars beside tables or lists of pairs hold the same pairs again (as in our shards), or the list's images.
        tars = pair_format(self.settings) == "tar"
        return ("tar", "parquet", "records") if tars else ("records", "parquet")

    def _report(self, here: NotRead) -> None:
        for what, number in here.counts.items():
            self.not_read.add(what, here.examples[what], number)

    def _named(self, place: Place, info: Info) -> Iterator[SourceRef]:
        """Sources of the file that an input names; that it is unreadable or empty is an error of the input."""
        format = wanted_format(place, self.settings)
        if format == "parquet":
            try:
                table_columns(place, self.settings)
            except (OSError, pa.ArrowException) as error:
                raise ConfigError(f"input {self.settings.path!r}: cannot be read as Parquet: {error}") from error
        elif format == "records":
            try:
                list_columns(place, self.settings)
            except (OSError, pa.ArrowException) as error:
                raise_if_service(error, place.uri)
                raise ConfigError(f"input {self.settings.path!r}: {cannot_be_read(place, error)}") from error
        first = None
        for source in self._file(place, info, format):
            first = first or source
            yield source
        if first is None:
            what = _what(self.settings, self.pairs)
            raise ConfigError(f"input {self.settings.path!r}: there is nothing in it to read (no {what})")

    def _file(self, place: Place, info: Info, format: Format, names_files: bool = True) -> Iterator[SourceRef]:
        """names_files: take photographs that a table or list only names; they may be read as files already."""
        if info.kind != "file":
            reason = "not a regular file (a dangling link or a device)"
            yield SourceRef.broken(place.uri, "", info.version, "file", reason)
        elif format == "image":
            size = {} if info.size is None else {"size": info.size}
            yield SourceRef.of(place.uri, "", info.version, "file", {**place.locator(), **size})
        elif format == "tar":
            yield from list_tar(place, info, self.settings, self.pairs, self.not_read)
        elif format == "records":
            yield from list_records(place, self.settings, self.pairs, names_files)
        else:
            yield from list_table(place, info, self.settings, self.pairs, names_files)


_OUTSIDE = "links that lead outside of the input (`allow: [FOLDER]` takes them in)"


def _leads_out(place: Place, border: Sequence[str]) -> bool:
    """Whether a local file or folder is a link to something outside of these real folders."""
    return not place.is_remote and os.path.islink(place.path) and not is_below(os.path.realpath(place.path), border)


def _left_out(own: Place | None, runs: bool, border: Sequence[str], place: Place) -> str | None:
    """Why a folder below an input is not entered: it is the run's own, or that of another run, or lies elsewhere."""
    if _leads_out(place, border):
        return _OUTSIDE
    if own is not None and _same(place, own):
        return "the run's own"
    if (
        runs
        and not place.is_remote
        and os.path.isfile(f"{place.path}/run.yaml")
        and os.path.isdir(f"{place.path}/sources")
    ):
        return "of other runs"
    return None


def _same(place: Place, other: Place) -> bool:
    if place.is_remote or other.is_remote:
        return place.is_remote == other.is_remote and place.uri.rstrip("/") == other.uri.rstrip("/")
    return os.path.realpath(place.path) == os.path.realpath(other.path)


def _unlisted(folder: Place, error: OSError) -> SourceRef:
    return SourceRef.broken(folder.uri, "", "", "file", SourceError(f"the folder cannot be listed: {error}"))


def _what(settings: InputSettings, pairs: bool) -> str:
    if pairs:
        return "edit pairs (.jsonl, .csv, .parquet, .tar)"
    names = {"auto": "images, tars, Parquet files or lists", "webdataset": "tars", "parquet": "Parquet rows"}
    names["list"] = "lists of photographs"
    return names.get(settings.kind, "images")


def _named_by_suffix(name: str) -> str:
    dot = name.rfind(".")
    return f"{suffix_kind(name[dot:])} files" if dot > 0 else "files without a suffix"


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
