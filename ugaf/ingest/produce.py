"""Producing rows: reads the sources of one fragment, names each by its content, and merges exact duplicates.

Only an image's header is checked here; the first stage that needs its pixels finds what is wrong further in.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from ugaf.base import tasks
from ugaf.imaging import images
from ugaf.ingest.fetching import NotNowError
from ugaf.ingest.inputs import InputSettings
from ugaf.ingest.limits import LimitSettings
from ugaf.ingest.loading import Loaded, PutOff, load
from ugaf.ingest.pair_cells import parse_boxes, storable
from ugaf.ingest.sources import SourceError, SourceRef
from ugaf.stage import Failure

VERSION = 2
"""Raised when a change of code changes what ingest writes; part of its fingerprint."""

_COMMON = [
    pa.field("sources", pa.list_(pa.string())),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("format", pa.string()),
    pa.field("plain", pa.bool_()),
]

FREE_TEXT = frozenset({"caption", "instruction"})
"""Columns of ingest that are told in words: their values are read, not counted."""

IMAGE_SCHEMA = pa.schema([pa.field("image", pa.large_binary()), *_COMMON, pa.field("caption", pa.string())])
"""Columns of a photograph: its original bytes, every source it came from, its size in pixels after EXIF rotation,
Pillow's name of its format, `plain` (see `images.ImageInfo`), and its caption or null."""

PAIR_SCHEMA = pa.schema(
    [
        pa.field("image", pa.large_binary()),
        pa.field("edited_image", pa.large_binary()),
        pa.field("instruction", pa.string()),
        pa.field("task", pa.string()),
        pa.field("given_task", pa.string()),
        pa.field("boxes", pa.list_(pa.list_(pa.int32()))),
        pa.field("engine", pa.string()),
        pa.field("source_id", pa.string()),
        pa.field("edited_id", pa.string()),
        pa.field("image_id", pa.string()),
        pa.field("split", pa.string()),
        *_COMMON,
    ]
)
"""Columns of an edit pair: the source's and the edited image's original bytes, the instruction, the task by our name
where it has one (else as it is given, or null), the task as it is given, the target boxes (absolute pixels of the
source, x1 y1 x2 y2, half-open, after EXIF rotation; may be empty), the engine ("external" if unknown), the ids of the
two images (`image_id` of their bytes), the `image_id` and `split` that the set gives, as our shards do, or null, and of
the source its size and format. `plain` is true if both images are."""


@dataclass(frozen=True)
class IngestedRow:
    """One row of a fragment.

    Attributes:
        id: 32 hexadecimal digits: of the content, or of the source's key for a failed source.
        values: the columns of IMAGE_SCHEMA or PAIR_SCHEMA, or why there are none.
        sources: the key of every source of this content in the fragment, in listing order.
        refs: those sources.
    """

    id: str
    values: dict[str, Any] | Failure
    sources: list[str]
    refs: list[SourceRef]


def produce(
    refs: Sequence[SourceRef],
    inputs: Sequence[InputSettings] = (),
    put_off: Callable[[SourceRef, NotNowError], None] | None = None,
) -> Iterator[IngestedRow]:
    """The rows of one fragment, each source in exactly one of them, but for those whose host gave no answer.

    Args:
        refs: the sources.
        inputs: the pipeline's, whose limits and borders count.
        put_off: told of each source that is in no row, and why.

    Sources with the same content are one row; a source that cannot be read is a failed row of its own. A row is held
    back only while a later source may still have the same content (the same size; for a pair, the same instruction).
    The order is deterministic, but not that of `refs`.

    Raises StopRun, see `load`.
    """
    pixels = {entry.path: entry.limits.megapixels for entry in inputs}
    # Two inputs may name one source.
    refs = list({(ref.uri, ref.member, ref.version): ref for ref in reversed(refs)}.values())[::-1]
    shared = _possible_duplicates(refs)
    held: dict[str, IngestedRow] = {}
    for ref, loaded in load(refs, inputs):
        if isinstance(loaded, PutOff):
            if put_off is not None:
                put_off(ref, loaded.error)
            continue
        row = _row(ref, loaded, pixels.get(ref.where().get("input", "")))
        if isinstance(row.values, Failure) or ref not in shared:
            yield row
        elif row.id in held:
            _merge(held[row.id], row)
        else:
            held[row.id] = row
    while held:
        yield held.pop(next(iter(held)))


def image_id(data: bytes) -> str:
    """The id of a photograph: the first 32 hexadecimal digits of its bytes' SHA-256."""
    return hashlib.sha256(data).hexdigest()[:32]


def pair_id(image: bytes, edited: bytes, instruction: str, boxes: Sequence[Sequence[int]]) -> str:
    """The id of a pair, from its images' bytes, its instruction and its boxes."""
    parts = [image_id(image), hashlib.sha256(edited).hexdigest(), instruction, [list(box) for box in boxes]]
    return image_id(json.dumps(parts, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def failed_id(ref: SourceRef) -> str:
    """The id of the row of a source that cannot be read: of its key, since there is no content to name it by."""
    return image_id(ref.key.encode())


def _row(ref: SourceRef, loaded: Loaded | Failure, megapixels: int | None) -> IngestedRow:
    failure = loaded if isinstance(loaded, Failure) else None
    if isinstance(loaded, Loaded):
        try:
            limit = megapixels or LimitSettings().megapixels
            id, values = _photo(loaded, limit) if loaded.edited is None else _pair(loaded, limit)
            values = {name: storable(value) if isinstance(value, str) else value for name, value in values.items()}
            values["sources"] = [storable(f"{ref.key} ({loaded.name})") if loaded.name else ref.key]
            return IngestedRow(id, values, values["sources"], [ref])
        except Exception as error:  # whatever a cell may hold, it must never cost its neighbours
            failure = Failure.of(error)
    assert failure is not None
    failure = Failure(failure.type, f"{ref.key}: {failure.message}")
    return IngestedRow(failed_id(ref), failure, [ref.key], [ref])


def _photo(loaded: Loaded, megapixels: int) -> tuple[str, dict[str, Any]]:
    info = _sized("image", images.probe(loaded.image), megapixels)
    values = {"image": loaded.image, **asdict(info), "caption": loaded.caption}
    return image_id(loaded.image), values


def _pair(loaded: Loaded, megapixels: int) -> tuple[str, dict[str, Any]]:
    assert loaded.edited is not None
    source = _sized("source image", _probe("source", loaded.image), megapixels)
    edited = _sized("edited image", _probe("edited", loaded.edited), megapixels)
    assert loaded.instruction is not None
    boxes = parse_boxes(loaded.boxes, source.width, source.height, loaded.reference)
    values = {
        "image": loaded.image,
        "edited_image": loaded.edited,
        "instruction": loaded.instruction,
        "task": tasks.ours(loaded.task) or loaded.task,
        "given_task": loaded.task,
        "boxes": [list(box) for box in boxes],
        "engine": loaded.engine or "external",
        "source_id": image_id(loaded.image),
        "edited_id": image_id(loaded.edited),
        "image_id": loaded.image_id,
        "split": loaded.split,
        **asdict(source),
        "plain": source.plain and edited.plain,
    }
    return pair_id(loaded.image, loaded.edited, loaded.instruction, boxes), values


def _sized(what: str, info: images.ImageInfo, megapixels: int) -> images.ImageInfo:
    """The same. Raises SourceError for more pixels than the input allows: decoded, they are a worker's memory."""
    if info.width * info.height > megapixels * 1_000_000:
        raise SourceError(
            f"{what} of {info.width} x {info.height} pixels is over the limit of {megapixels} million pixels "
            "(limits.megapixels)"
        )
    return info


def _probe(role: str, data: bytes) -> images.ImageInfo:
    try:
        return images.probe(data)
    except images.ImageError as error:
        raise images.ImageError(f"{role} image: {error}") from error


def _merge(row: IngestedRow, duplicate: IngestedRow) -> None:
    """Add a duplicate's sources, and what it knows and the row does not."""
    assert isinstance(row.values, dict)
    assert isinstance(duplicate.values, dict)
    row.sources.extend(duplicate.sources)
    row.refs.extend(duplicate.refs)
    for column in ("caption", "task", "given_task", "image_id", "split"):
        if column in row.values and row.values[column] is None:
            row.values[column] = duplicate.values[column]


def _possible_duplicates(refs: Sequence[SourceRef]) -> set[SourceRef]:
    """The sources that might share their content with another, by what is known without reading them.

    Bytes of different sizes differ, and so do pairs with different instructions. Nothing is known of a table's rows.
    """
    kinds = {ref.kind for ref in refs}
    if "pair" in kinds and len(kinds) > 1:
        return set(refs)
    traits = {ref: _trait(ref) for ref in refs}
    if None in traits.values():
        return set(refs)
    counts = Counter(traits.values())
    return {ref for ref in refs if counts[traits[ref]] > 1}


def _trait(ref: SourceRef) -> str | None:
    where = ref.where()
    if "error" in where:
        return ref.key
    if "list" in where:
        return None
    if ref.kind == "pair":
        return str(where["cells"].get("instruction"))
    if "pair" in where and ref.kind == "tar":
        return f"{where['pair']['source'][1]} {where['pair']['edited'][1]}"
    return str(where["size"]) if "size" in where else None
