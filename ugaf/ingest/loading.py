"""Loading: the bytes and texts of sources, each container opened once for the neighbours that share it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ugaf.errors import ConfigError
from ugaf.ingest import pair_cells, samples
from ugaf.ingest.places import Place
from ugaf.ingest.sources import SourceError, SourceRef
from ugaf.ingest.tables import read_rows
from ugaf.ingest.tars import read_member
from ugaf.stage import Failure
from ugaf.storage import ahead, readers_of

MAX_FILE_BYTES = 1 << 30
"""A single image's file of more bytes is refused unread."""


@dataclass(frozen=True)
class Loaded:
    """What was read for one source: a photograph, or a pair if there is an `edited` image.

    `boxes` and `reference` are as they stand in the file (see `pair_cells.parse_boxes`); `name` is the row's own id.
    """

    image: bytes
    edited: bytes | None = None
    caption: str | None = None
    instruction: str | None = None
    task: str | None = None
    boxes: Any = None
    reference: Any = None
    engine: str | None = None
    name: str | None = None


Outcome = tuple[SourceRef, Loaded | Failure]


def load(refs: Sequence[SourceRef]) -> Iterator[Outcome]:
    """Each source, in order, with what was read or why it could not be. Never raises for a source."""
    for container, group in itertools.groupby(refs, key=_container):
        if container is None:
            yield from _load_single(list(group))
        elif container[0] == "tar":
            yield from _load_tar(list(group))
        else:
            yield from _load_table(list(group))


def _container(ref: SourceRef) -> tuple[str, ...] | None:
    """Sources of one container are read together: a tar, or a row group of a table."""
    where = ref.where()
    if "error" in where or ref.kind not in ("tar", "parquet"):
        return None
    return ref.kind, ref.uri, ref.version, str(where.get("group"))


def _load_single(refs: list[SourceRef]) -> Iterator[Outcome]:
    remote = [where for where in (ref.where() for ref in refs) if "base" in where]
    readers = min((readers_of(Place.from_locator(where, "").filesystem) for where in remote), default=1)
    return ahead(_load_one, refs, readers)


def _load_one(ref: SourceRef) -> Outcome:
    where = ref.where()
    if "error" in where:
        return ref, Failure(where["error"]["type"], where["error"]["message"])
    return _guarded(ref, functools.partial(_read_single, ref, where))


def _read_single(ref: SourceRef, where: dict[str, Any]) -> Loaded:
    if ref.kind == "sample":
        return Loaded(samples.read_sample(where["file"]))
    if ref.kind == "pair":
        return _loaded_pair(where["cells"], Place.from_locator(where, ""))
    data = Place.from_locator(where, ref.uri).read(MAX_FILE_BYTES)
    if len(data) != where.get("size", len(data)):
        # Its version and its possible duplicates were told by that size; a rerun lists it anew.
        raise SourceError(f"changed while it was read: {where['size']} bytes when listed, now {len(data)}; run again")
    return Loaded(data)


def _load_tar(refs: list[SourceRef]) -> Iterator[Outcome]:
    place = Place.from_locator(refs[0].where(), refs[0].uri)
    try:
        file = place.open()
    except (OSError, pa.ArrowException, ConfigError) as error:
        for ref in refs:
            yield ref, _failure(error)
        return
    with file:
        for ref in refs:
            yield _guarded(ref, functools.partial(_loaded_member, file, ref.where()))


def _loaded_member(file: Any, where: dict[str, Any]) -> Loaded:
    if where["size"] > MAX_FILE_BYTES:
        raise SourceError(f"member of {where['size']} bytes is over the limit of {MAX_FILE_BYTES} bytes for one image")
    data, caption = read_member(file, where)
    return Loaded(data, caption=caption)


def _load_table(refs: list[SourceRef]) -> Iterator[Outcome]:
    """Rows of one row group. Where it cannot be read further, the rows that are left fail with that reason."""
    where = [ref.where() for ref in refs]
    place = Place.from_locator(where[0], refs[0].uri)
    columns: dict[str, str] = where[0]["columns"]
    folder = Place.of(where[0]["root"]) if "root" in where[0] else place.parent()
    order = sorted(range(len(refs)), key=lambda index: where[index]["row"])
    done = 0
    try:
        for fields in read_rows(place, where[0]["group"], [where[i]["row"] for i in order], list(columns.values())):
            ref = refs[order[done]]
            done += 1
            cells = {role: fields.get(name) for role, name in columns.items()}
            yield _guarded(ref, functools.partial(_loaded_row, cells, folder))
    except (OSError, pa.ArrowException, SourceError, ConfigError, ValueError) as error:
        for index in order[done:]:
            yield refs[index], _failure(error)


def _loaded_row(cells: dict[str, Any], folder: Place) -> Loaded:
    if "source" in cells:
        return _loaded_pair(cells, folder)
    return Loaded(
        _image("image", cells.get("image"), folder),
        caption=pair_cells.text(cells.get("caption")),
        name=pair_cells.label(cells.get("id")),
    )


def _loaded_pair(cells: dict[str, Any], folder: Place) -> Loaded:
    return Loaded(
        image=_image("source", cells.get("source"), folder),
        edited=_image("edited", cells.get("edited"), folder),
        instruction=pair_cells.text(cells.get("instruction")),
        task=pair_cells.text(cells.get("task")),
        boxes=cells.get("boxes"),
        reference=cells.get("reference"),
        engine=pair_cells.text(cells.get("engine")),
        name=pair_cells.label(cells.get("id")),
    )


def _image(role: str, cell: Any, folder: Place) -> bytes:
    """The bytes that an image cell holds or, as a path, names."""
    content = pair_cells.image_cell(role, cell)
    if isinstance(content, bytes):
        return content
    place = folder.resolve(content)
    try:
        return place.read(MAX_FILE_BYTES)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{role} image: no such file: {place.uri}") from error
    except (OSError, pa.ArrowException, SourceError) as error:
        raise SourceError(f"{role} image {place.uri}: {error}") from error


def _guarded(ref: SourceRef, read: Callable[[], Loaded]) -> Outcome:
    try:
        return ref, read()
    except Exception as error:
        # A source can be broken in ways that no list of exceptions foresees, and must never cost its neighbours.
        return ref, _failure(error)


def _failure(error: Exception) -> Failure:
    if isinstance(error, FileNotFoundError) and "no such file" not in str(error):
        return Failure("FileNotFoundError", "no such file: it was there when the input was listed")
    return Failure.of(error)
