"""The columns of an exported pair: one table that the Parquet schema, the dataset card and the documentation share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

_INTS = pa.list_(pa.int32())
_ARROW: dict[str, pa.DataType] = {
    "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    "string": pa.string(),
    "strings": pa.list_(pa.string()),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "box": _INTS,
    "boxes": pa.list_(_INTS),
}
_INT_LIST = {"_type": "Sequence", "feature": {"_type": "Value", "dtype": "int32"}}
# `Sequence`, not the newer `List`: every release of `datasets` reads it.
_FEATURES: dict[str, dict[str, Any]] = {
    "image": {"_type": "Image"},
    "string": {"_type": "Value", "dtype": "string"},
    "strings": {"_type": "Sequence", "feature": {"_type": "Value", "dtype": "string"}},
    "int": {"_type": "Value", "dtype": "int64"},
    "float": {"_type": "Value", "dtype": "float64"},
    "bool": {"_type": "Value", "dtype": "bool"},
    "box": _INT_LIST,
    "boxes": {"_type": "Sequence", "feature": _INT_LIST},
}


@dataclass(frozen=True)
class Column:
    """One column: `kind` is a key of the type tables above ("image", "string", "float", "box", ...)."""

    name: str
    kind: str
    description: str

    @property
    def is_image(self) -> bool:
        return self.kind == "image"


CORE: tuple[Column, ...] = (
    Column("id", "string", "the edit: derived from its photograph, boxes, instruction and engine"),
    Column("source", "image", "the image to edit: {bytes, path}; the photograph's own bytes unless `source_reencoded`"),
    Column("edited", "image", "the image after the edit: {bytes, path}"),
    Column("instruction", "string", "what to do, in English"),
    Column("instruction_cn", "string", "the same in Chinese; null where it was not asked for"),
    Column("task", "string", "kind of edit: add, remove, replace, recolor, ..."),
    Column("register", "string", "how the instruction is worded: detailed, concise or user"),
    Column("target", "string", "the object as the instruction names it; empty for a global edit"),
    Column("bbox", "box", "first target box; null for a global edit"),
    Column("boxes", "boxes", "all target boxes; empty for a global edit, two for a hybrid"),
    Column("bbox_edit", "box", "box of the measured difference between source and edited; null if nothing differs"),
    Column("edit_mask", "image", "1-bit PNG, white where the editor was allowed to change pixels; null if unknown"),
    Column("change_mask", "image", "1-bit PNG, white where source and edited were measured to differ"),
    Column("params", "string", "JSON: parameters of the edit, as its engine got them"),
    Column("image_id", "string", "the photograph: hash of its bytes; edits of one photograph share it"),
    Column("donor", "string", "`image_id` of a second photograph that an object was taken from; null if none"),
    Column("engine", "string", 'who proposed the edit; "external" for pairs that came from elsewhere'),
    Column("editor", "string", "who made the pixels, with its version"),
    Column(
        "edit_way", "string", "how the box reached the editor: whole, words, boxes, crop or inpaint; null if by mask"
    ),
    Column("writer", "string", "who wrote the instruction"),
    Column("screener", "string", "who screened the instruction"),
    Column("detector", "string", "who found the boxes"),
    Column("verifier", "string", "who gave the verification scores"),
    Column("scorer", "string", "who gave the quality score"),
    Column("caption", "string", "caption that came with the photograph"),
    Column("width", "int", "pixels, of `source`"),
    Column("height", "int", "pixels, of `source`"),
    Column(
        "sources",
        "strings",
        "where the photograph came from, below its input; several where exact copies were merged",
    ),
    Column(
        "source_reencoded", "bool", "true where `source` is a lossless PNG made from bytes that readers see differently"
    ),
    Column("edited_reencoded", "bool", "the same for `edited`"),
    Column("split", "string", "train or validation; no picture is in both"),
)
"""Boxes are absolute pixels of `source` [x1, y1, x2, y2], half-open. Every export has these columns, null where the
pipeline has no such value; the numeric measures of its stages follow."""

PHOTOGRAPH: tuple[Column, ...] = (
    Column("id", "string", "the photograph: hash of its bytes"),
    Column("image", "image", "{bytes, path}; the photograph's own bytes unless `image_reencoded`"),
    Column(
        "sources",
        "strings",
        "where the photograph came from, below its input; several where exact copies were merged",
    ),
    Column("caption", "string", "caption that came with the photograph"),
    Column("width", "int", "pixels, after EXIF rotation"),
    Column("height", "int", "pixels, after EXIF rotation"),
    Column("format", "string", "of the photograph's own bytes: JPEG, PNG, ..."),
    Column(
        "image_reencoded", "bool", "true where `image` is a lossless PNG made from bytes that readers see differently"
    ),
    Column("split", "string", "train or validation; no photograph is in both"),
)
"""The columns of an exported photograph; those of its stages that are numbers, texts or truths follow."""

CORE_NAMES = frozenset(column.name for column in CORE)


def with_measures(measures: Iterable[tuple[str, str, bool]]) -> tuple[Column, ...]:
    """The core columns, then the measures given as (stage, name, is it an integer)."""
    extra = [Column(name, "int" if whole else "float", f"measure of `{stage}`") for stage, name, whole in measures]
    return (*CORE, *extra)


def schema(columns: Sequence[Column]) -> pa.Schema:
    """The Arrow schema, with the features that Hugging Face `datasets` looks for in its metadata."""
    features = {column.name: _FEATURES[column.kind] for column in columns}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema([pa.field(column.name, _ARROW[column.kind]) for column in columns], metadata)


def type_name(column: Column) -> str:
    """The column's type as the card and the documentation show it."""
    named = {"image": "struct {bytes, path}", "strings": "list<string>", "int": "int64", "float": "float64"}
    return {**named, "box": "list<int32>, 4", "boxes": "list<list<int32>>"}.get(column.kind, column.kind)
