"""Parquet files: one source a row, addressed by row group and row, found from the footer alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ugaf.base import faults
from ugaf.base.errors import ConfigError
from ugaf.ingest.inputs import InputSettings
from ugaf.ingest.places import Info, Place
from ugaf.ingest.schemas import (
    IMAGE_NAMES,
    PATH_NAMES,
    NamesFilesError,
    Recognised,
    check_once,
    image_columns,
    no_pair_columns,
    pair_columns,
)
from ugaf.ingest.sources import RecordError, SourceError, SourceRef

_BATCH_ROWS = 16


def table_columns(place: Place, settings: InputSettings) -> Recognised:
    """The columns that ingest reads of a Parquet file. Raises ConfigError if there is neither an image nor a pair,
    OSError or ArrowInvalid if it cannot be read."""
    with place.open_native() as file:
        return _recognise(pq.ParquetFile(file).schema_arrow, settings, f"input {place.uri!r}")


def list_table(
    place: Place, info: Info, settings: InputSettings, pairs: bool, names_files: bool = True
) -> Iterator[SourceRef]:
    """A source for each row of a file. One that cannot be read as Parquet is one broken source.

    Raises ConfigError if it lacks the columns, or if it holds pairs where photographs are expected or the reverse;
    NamesFilesError for photographs that are paths or the like unless `names_files`.
    """
    try:
        with place.open_native() as file:
            parquet = pq.ParquetFile(file)
            metadata, schema = parquet.metadata, parquet.schema_arrow
    except (OSError, pa.ArrowException) as error:
        faults.raise_if_service(error, place.uri)
        unreadable = SourceError(f"not a readable Parquet file: {error}")
        yield SourceRef.broken(place.uri, "", info.version, "parquet", unreadable)
        return
    found = _recognise(schema, settings, f"input {place.uri!r}")
    if found.is_pairs != pairs:
        raise ConfigError(
            f"input {settings.path!r}: {place.uri} holds {'edit pairs' if found.is_pairs else 'photographs'}, the "
            f"input {'edit pairs' if pairs else 'photographs'}: give it an input and a run of its own, or set `kind`"
        )
    if found.names_files and not names_files:
        raise NamesFilesError(place.uri)
    locator: dict[str, Any] = {**place.locator(), "columns": found.columns}
    if found.is_pairs:
        locator["pair"] = True
    if settings.root:
        locator["root"] = settings.root
    number = 0
    for group in range(metadata.num_row_groups):
        for row in range(metadata.row_group(group).num_rows):
            number += 1
            member = {**locator, "group": group, "row": row}
            yield SourceRef.of(place.uri, str(number), info.version, "parquet", member)


def read_rows(
    place: Place, group: int, wanted: Sequence[int], columns: Sequence[str]
) -> Iterator[dict[str, Any] | RecordError]:
    """The wanted rows (ascending) of a row group, in order, each a dict, or what is wrong with one of its cells.

    Reads the group once, a few rows at a time.
    """
    with place.open_native() as file:
        parquet = pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
        if group >= parquet.num_row_groups:
            raise SourceError("the file has changed since it was listed: run again")
        rows = iter(wanted)
        row = next(rows, None)
        start = 0
        for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=[group], columns=list(dict.fromkeys(columns))):
            while row is not None and row < start + batch.num_rows:
                yield _row(batch, row - start)
                row = next(rows, None)
            if row is None:
                return
            start += batch.num_rows
        raise SourceError("the file has changed since it was listed: run again")


def _row(batch: pa.RecordBatch, index: int) -> dict[str, Any] | RecordError:
    cells = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            cells[name] = column[index].as_py()
        except UnicodeDecodeError as error:
            bad = error.object[error.start]
            return RecordError(f"column {name!r}: a text that is not UTF-8 (byte {bad:#04x} at {error.start})")
        except (ValueError, OverflowError) as error:  # a date that Python does not have
            return RecordError(f"column {name!r}: {error}")
    return cells


def _recognise(schema: pa.Schema, settings: InputSettings, where: str) -> Recognised:
    names = schema.names
    schema = pa.schema({field.name: field for field in schema}.values(), schema.metadata)
    found = _recognise_once(schema, settings, where)
    check_once(names, found.columns, where)
    return found


def _recognise_once(schema: pa.Schema, settings: InputSettings, where: str) -> Recognised:
    """The same for columns of different names."""
    if settings.kind in ("auto", "pairs"):
        columns = pair_columns(schema.names, settings.columns, where)
        if columns is not None:
            return Recognised(columns, True)
        if settings.kind == "pairs":
            raise no_pair_columns(schema.names, where)
    found = image_columns(_image_candidates(schema), schema.names, settings.columns, where)
    return Recognised(found, False, names_files=_is_text(schema.field(found["image"]).type))


def _image_candidates(schema: pa.Schema) -> list[str]:
    """Columns that can hold images: those that Hugging Face marks, else {bytes, path} structs, else binary ones.

    Lists of one of these count after them. A column of strings counts (as paths, base64 or data URIs) only under a
    usual name, and only where nothing else can be the image.
    """
    marked = [name for name in _hugging_face_images(schema) if name in schema.names]
    structs = [field.name for field in schema if _is_image_struct(field.type)]
    binary = [field.name for field in schema if _is_binary(field.type)]
    lists = [field.name for field in schema if _is_list(field.type) and _holds_bytes(field.type.value_type)]
    texts = [name for name in (*IMAGE_NAMES, *PATH_NAMES) if name in schema.names and _is_text(schema.field(name).type)]
    return marked or structs or binary or lists or texts[:1]


def _hugging_face_images(schema: pa.Schema) -> list[str]:
    """Columns that `datasets` marks as Image, or as a list of them in any of the forms that its releases write."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [name for name, feature in features.items() if _is_image_feature(feature)]
    except (KeyError, ValueError, TypeError, AttributeError):
        return []


def _is_image_feature(feature: Any) -> bool:
    if isinstance(feature, list):
        return len(feature) == 1 and _is_image_feature(feature[0])
    if feature.get("_type") in ("List", "LargeList", "Sequence"):
        return _is_image_feature(feature.get("feature") or {})
    return feature.get("_type") == "Image"


def _holds_bytes(type: pa.DataType) -> bool:
    return _is_binary(type) or _is_image_struct(type)


def _is_image_struct(type: pa.DataType) -> bool:
    return pa.types.is_struct(type) and type.get_field_index("bytes") >= 0 and _is_binary(type.field("bytes").type)


def _is_binary(type: pa.DataType) -> bool:
    if pa.types.is_dictionary(type):
        return _is_binary(type.value_type)
    return (
        pa.types.is_binary(type)
        or pa.types.is_large_binary(type)
        or pa.types.is_fixed_size_binary(type)
        or pa.types.is_binary_view(type)
    )


def _is_list(type: pa.DataType) -> bool:
    return pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_fixed_size_list(type)


def _is_text(type: pa.DataType) -> bool:
    if pa.types.is_dictionary(type):
        return _is_text(type.value_type)
    if _is_list(type):
        return _is_text(type.value_type)
    return pa.types.is_string(type) or pa.types.is_large_string(type) or pa.types.is_string_view(type)
