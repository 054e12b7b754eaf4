"""Loading: the bytes and texts of sources, each container opened once for the neighbours that share it."""

from __future__ import annotations

import functools
import itertools
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ugaf.base import faults
from ugaf.base.errors import ConfigError, StopRun
from ugaf.base.location import Location, scrub
from ugaf.ingest import pair_cells, samples
from ugaf.ingest.access import Reach, base_of, reach_of
from ugaf.ingest.fetching import NotNowError
from ugaf.ingest.inputs import InputSettings
from ugaf.ingest.limits import LimitSettings
from ugaf.ingest.lists import read_cells
from ugaf.ingest.places import Place
from ugaf.ingest.schemas import tar_fields
from ugaf.ingest.sources import RecordError, SourceError, SourceRef
from ugaf.ingest.tables import read_rows
from ugaf.ingest.tars import read_pair, read_photo
from ugaf.stage import Failure
from ugaf.storage import ahead

Inputs = Mapping[str, InputSettings]
"""The pipeline's inputs by their (public) path."""


@dataclass(frozen=True)
class Loaded:
    """What was read for one source: a photograph, or a pair if there is an `edited` image.

    `boxes` and `reference` are as they stand in the file (see `pair_cells.parse_boxes`), and so is the task; `name` is
    the row's own id, `image_id` and `split` what shards say of their photograph.
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
    image_id: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class PutOff:
    """Nothing is known of a source: the foreign host that has it gave no answer."""

    error: NotNowError


Outcome = tuple[SourceRef, Loaded | Failure | PutOff]


def load(refs: Sequence[SourceRef], inputs: Sequence[InputSettings] = ()) -> Iterator[Outcome]:
    """Each source with what was read or why it could not be, in order but for those that a host refused, which are
    asked for once more at the end. Never raises for a source.

    inputs: as the pipeline has them now; a source finds its own by the name in its locator.

    Raises StopRun if a store or server of the input, or a disk, is at fault for longer than patience lasts.
    """
    settings = {entry.path: entry for entry in inputs}
    refused: list[SourceRef] = []
    for outcome in _load(refs, settings):
        ref, loaded = outcome
        if isinstance(loaded, PutOff) and loaded.error.refused:
            refused.append(ref)
        else:
            yield outcome
    # Meanwhile their hosts may have answered for others: then the refusal is theirs alone.
    yield from _load(refused, settings)


def _load(refs: Sequence[SourceRef], inputs: Inputs) -> Iterator[Outcome]:
    for container, group in itertools.groupby(refs, key=_container):
        if container is None:
            yield from _load_single(list(group), inputs)
        elif container[0] == "tar":
            yield from _load_tar(list(group), inputs)
        elif container[0] == "list":
            yield from _load_list(list(group), inputs)
        else:
            yield from _load_table(list(group), inputs)


def _settings_of(where: Mapping[str, Any], inputs: Inputs, uri: str) -> InputSettings:
    name = where.get("input", uri)
    return inputs.get(name) or InputSettings(path=name)


def _container(ref: SourceRef) -> tuple[str, ...] | None:
    """Sources of one container are read together: a tar, a row group of a table, a list that holds its pictures."""
    where = ref.where()
    if "error" not in where and "list" in where:
        return "list", ref.uri
    if "error" in where or ref.kind not in ("tar", "parquet"):
        return None
    return ref.kind, ref.uri, ref.version, str(where.get("group"))


def _load_single(refs: list[SourceRef], inputs: Inputs) -> Iterator[Outcome]:
    places = {_reading_place(ref.where()) for ref in refs}
    readers = min((place.readers for place in places if place is not None), default=1)
    return ahead(functools.partial(_load_one, inputs=inputs), refs, readers)


def _reading_place(where: Mapping[str, Any]) -> Place | None:
    """The folder of the remote file system that a source is read from; None for a local file."""
    cells = where.get("cells", {}).values()
    web = next((cell for cell in cells if isinstance(cell, str) and cell.startswith(("http://", "https://"))), None)
    if web is not None:
        return Place.of(web).parent()
    return Place.from_locator({**where, "path": ""}, "") if "base" in where else None


def _load_one(ref: SourceRef, inputs: Inputs) -> Outcome:
    where = ref.where()
    if "error" in where:
        return ref, Failure(where["error"]["type"], where["error"]["message"])
    return _guarded(ref, functools.partial(_read_single, ref, where, _settings_of(where, inputs, ref.uri)), inputs)


def _read_single(ref: SourceRef, where: dict[str, Any], settings: InputSettings) -> Loaded:
    if ref.kind == "sample":
        return Loaded(samples.read_sample(where["file"]))
    if ref.kind in ("pair", "record"):
        reach = reach_of(Place.from_locator(where, ""), ref, settings)
        return _loaded_row(where["cells"], reach, ref.kind == "pair")
    data = Place.from_locator(where, ref.uri).read(settings.limits.file_bytes)
    if len(data) != where.get("size", len(data)):
        # Its version and its possible duplicates were told by that size; a rerun lists it anew.
        raise SourceError(f"changed while it was read: {where['size']} bytes when listed, now {len(data)}; run again")
    return Loaded(data)


def _load_tar(refs: list[SourceRef], inputs: Inputs) -> Iterator[Outcome]:
    where = refs[0].where()
    place = Place.from_locator(where, refs[0].uri)
    limits = _settings_of(where, inputs, refs[0].uri).limits
    try:
        file = faults.patiently(place.open, place.uri)
    except (OSError, pa.ArrowException, ConfigError) as error:
        _check_seen(error, refs[0], inputs)
        for ref in refs:
            yield ref, _failure(error)
        return
    with file:
        for ref in refs:
            yield _guarded(ref, functools.partial(_loaded_member, file, ref.where(), limits), inputs)


def _loaded_member(file: Any, where: dict[str, Any], limits: LimitSettings) -> Loaded:
    if "pair" not in where:
        limits.check("member", where["size"], "file_mb")
        if "caption" in where:
            limits.check("caption", where["caption"][2], "caption_kb")
        data, caption = read_photo(file, where)
        return Loaded(data, caption=caption)
    for name, (_, size) in where["pair"].items():
        limits.check(f"{name} member", size, "caption_kb" if name == "fields" else "file_mb")
    for name, (_, size) in where["texts"].items():
        limits.check(f"text {name}".rstrip(), size, "caption_kb")
    source, edited, fields = read_pair(file, where)
    columns = tar_fields(fields, where.get("columns", {}))
    cells = {role: fields[name] for role, name in columns.items()}
    return _pair_of(source, edited, cells)


def _load_list(refs: list[SourceRef], inputs: Inputs) -> Iterator[Outcome]:
    """Records whose pictures stand in the list itself. Where it cannot be read further, those that are left fail."""
    where = [ref.where() for ref in refs]
    settings = _settings_of(where[0], inputs, refs[0].uri)
    order = sorted(range(len(refs)), key=lambda index: where[index]["at"])
    done = 0
    try:
        for cells in read_cells([where[i] for i in order], [refs[i].version for i in order]):
            ref = refs[order[done]]
            reach = reach_of(Place.from_locator(where[order[done]], ""), ref, settings)
            done += 1
            if isinstance(cells, RecordError):
                yield ref, _failure(cells)
            else:
                yield _guarded(ref, functools.partial(_loaded_row, cells, reach, ref.kind == "pair"), inputs)
    except Exception as error:
        faults.raise_if_service(error, refs[0].uri)
        _check_seen(error, refs[0], inputs)
        for index in order[done:]:
            yield refs[index], _failure(error)


def _load_table(refs: list[SourceRef], inputs: Inputs) -> Iterator[Outcome]:
    """Rows of one row group. Where it cannot be read further, the rows that are left fail with that reason."""
    where = [ref.where() for ref in refs]
    place = Place.from_locator(where[0], refs[0].uri)
    columns: dict[str, str] = where[0]["columns"]
    folder = Place.of(where[0]["root"]) if "root" in where[0] else place.parent()
    reach = reach_of(folder, refs[0], _settings_of(where[0], inputs, refs[0].uri))
    order = sorted(range(len(refs)), key=lambda index: where[index]["row"])
    done = 0
    try:
        for fields in read_rows(place, where[0]["group"], [where[i]["row"] for i in order], list(columns.values())):
            ref = refs[order[done]]
            done += 1
            if isinstance(fields, RecordError):
                yield ref, _failure(fields)
                continue
            cells = {role: fields.get(name) for role, name in columns.items()}
            yield _guarded(ref, functools.partial(_loaded_row, cells, reach, "pair" in where[0]), inputs)
    except Exception as error:
        faults.raise_if_service(error, place.uri)
        _check_seen(error, refs[0], inputs)
        for index in order[done:]:
            yield refs[index], _failure(error)


def _loaded_row(cells: dict[str, Any], reach: Reach, is_pair: bool) -> Loaded:
    if is_pair:
        source, edited = (_image(role, cells.get(role), reach) for role in ("source", "edited"))
        return _pair_of(source, edited, cells)
    return Loaded(
        _image("image", cells.get("image"), reach),
        caption=pair_cells.text(cells.get("caption")),
        name=_name(cells),
    )


def _pair_of(source: bytes, edited: bytes, cells: dict[str, Any]) -> Loaded:
    return Loaded(
        image=source,
        edited=edited,
        instruction=pair_cells.instruction(cells.get("instruction")),
        task=pair_cells.text(cells.get("task")),
        boxes=cells.get("boxes"),
        reference=cells.get("reference"),
        engine=pair_cells.text(cells.get("engine")),
        name=_name(cells),
        image_id=pair_cells.label(cells.get("image_id")),
        split=pair_cells.text(cells.get("split")),
    )


def _name(cells: dict[str, Any]) -> str | None:
    """The row's own id, which may be its address."""
    name = pair_cells.label(cells.get("id"))
    return None if name is None else scrub(name)


def _image(role: str, cell: Any, reach: Reach) -> bytes:
    """The bytes that an image cell holds or, as a path, names."""
    content = pair_cells.image_cell(role, cell)
    if isinstance(content, bytes):
        reach.settings.limits.check(f"{role} image", len(content), "file_mb")
        return content
    shown = Location(content).public[:300]
    what = "the image" if role == "image" else f"{role} image"
    try:
        return reach.read(content)
    except FileNotFoundError as error:
        hint = pair_cells.path_hint(content)
        raise FileNotFoundError(f"{what}: no such file: {shown}{hint}") from error
    except (OSError, pa.ArrowException, SourceError) as error:
        raise SourceError(f"{what}: {shown}: {error}") from error


def _guarded(ref: SourceRef, read: Callable[[], Loaded], inputs: Inputs) -> Outcome:
    try:
        return ref, faults.patiently(read, ref.uri)
    except NotNowError as error:
        return ref, PutOff(error)
    except Exception as error:
        _check_seen(error, ref, inputs)
        # A source can be broken in ways that no list of exceptions foresees, and must never cost its neighbours.
        return ref, _failure(error)


def _check_seen(error: Exception, ref: SourceRef, inputs: Inputs) -> None:
    """Raises StopRun if a file is missing on a machine that sees nothing of the whole input: it is not shared then.

    Only for inputs that the pipeline has: they were there when this run listed them.
    """
    name = ref.where().get("input", "")
    if not isinstance(error, FileNotFoundError) or name not in inputs or ref.kind == "sample":
        return
    place = base_of(inputs[name])
    if place.is_remote:
        return
    folder = place.path if ref.uri.startswith(f"{place.path.rstrip('/')}/") else os.path.dirname(ref.uri)
    if not os.path.isdir(folder) or not os.listdir(folder):
        raise StopRun(
            f"{folder}: {socket.gethostname()} sees nothing there, but the inputs were listed with {ref.key}. Every "
            "machine of a cluster must see the inputs under the same path, or they must be given as URLs of a store. "
            "No row is failed for it: the same command goes on where it stopped"
        )


def _failure(error: Exception) -> Failure:
    if isinstance(error, FileNotFoundError) and "no such file" not in str(error):
        return Failure("FileNotFoundError", "no such file: it was there when the input was listed")
    failure = Failure.of(error)
    return Failure(failure.type, scrub(failure.message))
